# The tools image for clusters that are not of tests/cluster, see README.md:
#     docker build -t REGISTRY/lockstep-e2e-tools -f tests/e2e/tools.Dockerfile tests/e2e
FROM debian:bookworm-slim
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home-dir /tmp --no-create-home postgres \
    && apt-get update \
    && apt-get install -y --no-install-recommends postgresql fio busybox e2fsprogs xfsprogs util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && busybox --install -s /usr/local/bin \
    && for program in /usr/lib/postgresql/*/bin/*; do ln -sf "$program" /usr/local/bin/; done
# SIGINT is what asks PostgreSQL and fio to end at once, and in order.
STOPSIGNAL SIGINT
CMD ["/bin/sh"]
