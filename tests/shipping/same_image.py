"""usage: same_image.py ONE OTHER    two archives of `podman save` hold the same files and say the same of how to run them"""

import hashlib
import json
import sys
import tarfile


def held(path):
    """Each file of the layers, and the configuration; but not when any of it was made, nor the name of the container that made it."""
    found = {}
    with tarfile.open(path) as archive:
        [image] = json.load(archive.extractfile("manifest.json"))
        found["the configuration"] = json.load(archive.extractfile(image["Config"]))["config"] | {"Hostname": ""}
        for layer in image["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                for entry in files:
                    digest = hashlib.sha256(files.extractfile(entry).read()).hexdigest() if entry.isfile() else None
                    found[entry.name] = (entry.type, oct(entry.mode), entry.uid, entry.gid, entry.linkname, digest)
    return found


one, other = held(sys.argv[1]), held(sys.argv[2])
differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
if differing:
    raise SystemExit(f"same_image: these differ: {', '.join(differing)}")
if not any(name.endswith("usr/bin/penstock") for name in one):
    raise SystemExit("same_image: there is no penstock in it")
