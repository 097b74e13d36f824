#!/usr/bin/env python3
"""Writes a container image as a docker-archive tar: one layer, from scratch, without a daemon.

usage: mkimage.py OUT.tar NAME[,NAME...] ENTRYPOINT_JSON ITEM...

ENTRYPOINT_JSON is a JSON list of strings; [] means a shell. Each ITEM is one of
  HOST:PATH[=MODE]     a file of this machine, or a folder with all it holds; MODE is octal, for a file
  link:TARGET:PATH     a symbolic link
  dir:PATH             an empty folder
  text:PATH:CONTENT    a small file
  tool:COMMAND         a command of this machine at the path it has here, and the shared libraries it needs
  library:FILE         a shared library, such as a plug-in, at the path it has here, and those it needs itself
  stop:SIGNAL          the signal that asks the container to end, in place of SIGTERM
  base                 busybox, and what a CSI node needs to make, check, grow and mount ext4 and xfs

Paths follow the merged /usr of today's distributions: /bin/x is stored as /usr/bin/x, and /bin is a link.
The same input gives the same bytes: times are zero, owners are root.
"""
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile

TOOL_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

# The shell is not busybox's: that one may be built to run its own applets whatever PATH says.
BASE_TOOLS = {
    'shell': 'sh',
    'e2fsprogs': 'mke2fs mkfs.ext4 e2fsck fsck.ext4 resize2fs tune2fs dumpe2fs debugfs',
    'xfsprogs': 'mkfs.xfs fsck.xfs xfs_growfs xfs_repair xfs_db xfs_io xfs_admin',
    'util-linux': 'mount umount losetup blkid blockdev fsck findmnt lsblk fsfreeze wipefs nsenter mountpoint flock',
}

MERGED = ('bin', 'sbin', 'lib', 'lib64')


class Layer:
    """The one layer of the image, kept in memory: a first writer of a path wins."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode='w')
        self.paths = set()
        self.stop_signal = None

    def add(self, path, kind, mode=0o644, data=b'', target=''):
        path = self.canonical(path)
        if not path or path in self.paths:
            return
        self.parents(path)
        self.paths.add(path)
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.size, info.linkname = kind, mode, len(data), target
        self.tar.addfile(info, io.BytesIO(data))

    def parents(self, path):
        parent = os.path.dirname(path)
        if parent:
            self.folder(parent)

    def folder(self, path):
        self.add(path, tarfile.DIRTYPE, 0o1777 if path.strip('/') == 'tmp' else 0o755)

    def canonical(self, path):
        path = os.path.normpath('/' + path).lstrip('/')
        top = path.partition('/')[0]
        if top not in MERGED:
            return path
        if top not in self.paths:
            self.paths.add(top)
            info = tarfile.TarInfo(top)
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, 'usr/' + top
            self.tar.addfile(info)
        return 'usr/' + path

    def copy(self, host, path, mode=None):
        """Copies a file, or a folder with all it holds; links inside a folder stay links."""
        if not os.path.isdir(host):
            with open(host, 'rb') as f:
                self.add(path, tarfile.REGTYPE, mode or (0o755 if os.access(host, os.X_OK) else 0o644), f.read())
            return
        self.folder(path)
        for entry in sorted(os.scandir(host), key=lambda e: e.name):
            inside = os.path.join(path, entry.name)
            if entry.is_symlink():
                self.add(inside, tarfile.SYMTYPE, 0o777, target=os.readlink(entry.path))
            else:
                self.copy(entry.path, inside)

    def tool(self, name):
        found = shutil.which(name, path=TOOL_PATH)
        if not found:
            sys.exit(f'mkimage: no command {name} on this machine')
        self.copy(found, found, 0o755)
        self.libraries_of(found)

    def libraries_of(self, path):
        for library in shared_libraries(path):
            self.copy(library, library, 0o755)

    def library(self, path):
        if not os.path.isfile(path):
            sys.exit(f'mkimage: no library {path} on this machine')
        self.copy(path, path, 0o644)
        self.libraries_of(path)

    def base(self):
        for top in MERGED:
            self.folder(top + '/')
        for names in BASE_TOOLS.values():
            for name in names.split():
                self.tool(name)
        self.tool('busybox')
        busybox = shutil.which('busybox', path=TOOL_PATH)
        have = {os.path.basename(p) for p in self.paths}
        applets = subprocess.run([busybox, '--list'], check=True, capture_output=True, text=True).stdout.split()
        for applet in applets:  # the real command, where there is one, is better than the applet
            if applet not in have:
                self.add('/usr/bin/' + applet, tarfile.SYMTYPE, 0o777, target=busybox)
        if os.path.exists('/etc/mke2fs.conf'):
            self.copy('/etc/mke2fs.conf', '/etc/mke2fs.conf')
        self.add('/etc/passwd', tarfile.REGTYPE, data=b'root:x:0:0:root:/root:/bin/sh\n')
        self.add('/etc/group', tarfile.REGTYPE, data=b'root:x:0:\n')
        self.add('/etc/mtab', tarfile.SYMTYPE, 0o777, target='/proc/mounts')
        for folder in ('/tmp', '/mnt', '/root', '/run', '/var/lib'):
            self.folder(folder)

    def item(self, item):
        if item == 'base':
            return self.base()
        word, _, rest = item.partition(':')
        if word == 'tool':
            return self.tool(rest)
        if word == 'library':
            return self.library(rest)
        if word == 'stop':
            self.stop_signal = rest
            return None
        if word == 'dir':
            return self.folder(rest)
        first, colon, second = rest.partition(':')
        if word == 'link' and colon:
            return self.add(second, tarfile.SYMTYPE, 0o777, target=first)
        if word == 'text' and colon:
            return self.add(first, tarfile.REGTYPE, data=second.encode())
        path, equals, mode = rest.partition('=')
        if not path:
            sys.exit(f'mkimage: cannot read item {item!r}')
        return self.copy(word, path, int(mode, 8) if equals else None)

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


def shared_libraries(command):
    """Paths of what the dynamic linker would load; none for a script or a static program."""
    done = subprocess.run(['ldd', command], capture_output=True, text=True)
    if 'not found' in done.stdout:
        sys.exit(f'mkimage: {command} lacks libraries here:\n{done.stdout}')
    return re.findall(r'(?:=> |^\s*)(/\S+) \(0x', done.stdout, re.MULTILINE)


def write_image(out, names, entrypoint, layer, stop_signal):
    digest = hashlib.sha256(layer).hexdigest()
    settings = {
        'Entrypoint': entrypoint or None,
        'Cmd': None if entrypoint else ['/bin/sh'],
        'Env': ['PATH=' + TOOL_PATH],
        'WorkingDir': '/',
    }
    if stop_signal:
        settings['StopSignal'] = stop_signal
    config = json.dumps({
        'architecture': {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(os.uname().machine, os.uname().machine),
        'os': 'linux',
        'created': '1970-01-01T00:00:00Z',
        'config': settings,
        'rootfs': {'type': 'layers', 'diff_ids': ['sha256:' + digest]},
    }).encode()
    config_name = hashlib.sha256(config).hexdigest() + '.json'
    manifest = json.dumps([{'Config': config_name, 'RepoTags': names, 'Layers': [digest + '/layer.tar']}]).encode()
    with tarfile.open(out + '.new', 'w') as tar:
        for name, data in ((config_name, config), (digest + '/layer.tar', layer), ('manifest.json', manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    os.replace(out + '.new', out)


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    out, names, entrypoint = sys.argv[1], sys.argv[2].split(','), json.loads(sys.argv[3])
    layer = Layer()
    for item in sys.argv[4:]:
        layer.item(item)
    write_image(out, names, entrypoint, layer.bytes(), layer.stop_signal)


main()
