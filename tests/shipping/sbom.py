"""usage: sbom.py MADE OUT    cargo-cyclonedx's SBOM, with exactly the crates that this machine's build compiles

cargo-cyclonedx lists what Cargo.lock could need: crates behind features that are off, too (ring among them, which deny.toml bans).
`cargo tree` knows which features are on.
"""

import json
import pathlib
import subprocess
import sys

made, out = map(pathlib.Path, sys.argv[1:])
# Names are made of the folder; the compiler is told to call it this as well.
sbom = json.loads(made.read_text().replace(f"path+file://{pathlib.Path.cwd()}#", "path+file:///penstock#"))
tree = subprocess.check_output(
    ["cargo", "tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"], text=True
)
compiled = {tuple(line.split()[:2]) for line in tree.splitlines()}


def crate(component):
    return component["name"], f"v{component['version']}"


itself = crate(sbom["metadata"]["component"])
components = [component for component in sbom["components"] if crate(component) in compiled]
missing = compiled - {crate(component) for component in components} - {itself}
if missing or itself not in compiled:
    raise SystemExit(f"sbom: it lacks {sorted(missing) or itself}")
for component in components:
    for fact in ("purl", "licenses", "hashes"):
        if not component.get(fact):
            raise SystemExit(f"sbom: {component['name']} has no {fact}")
gone = {component["bom-ref"] for component in sbom["components"]} - {component["bom-ref"] for component in components}
dependencies = [
    {name: [ref for ref in value if ref not in gone] if name == "dependsOn" else value for name, value in each.items()}
    for each in sbom["dependencies"]
    if each["ref"] not in gone
]
out.write_text(json.dumps(sbom | {"components": components, "dependencies": dependencies}, indent=2) + "\n")
print(f"  {len(components)} crates, each with its licence and digest")
