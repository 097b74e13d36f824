# The image of all roles, for deploy/charts/lockstep: two static binaries on a small
# Debian that has the tools which the node service calls: mkfs, fsck, growing and
# mounting of ext4 and xfs. Loop devices and FUSE are the host's: node and
# standalone run privileged, with /dev and the kubelet's or the user's mount
# points shared. The other roles need no user, no tool and no writable file.
FROM golang:1.26-trixie AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/lockstep ./cmd/lockstep-engine

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends e2fsprogs xfsprogs mount util-linux \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/lockstep /out/lockstep-engine /usr/local/bin/
RUN ln -s lockstep /usr/local/bin/kubectl-lockstep
COPY LICENSE /usr/share/doc/lockstep/LICENSE
ENTRYPOINT ["/usr/local/bin/lockstep"]
CMD ["--help"]
