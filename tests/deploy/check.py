"""Checks deploy/ as far as that goes without a cluster, a daemon or an init: by schema, by linter, and against sumd itself.
Other folders' scripts are linted with its own.

`make lint` runs it.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "sumd.service"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
SCRIPTS = [".ci/run", "benches/run", "deploy/local/cluster", "deploy/release"]
TOOLS = Path(sys.executable).parent

# The oldest release that has everything that is used, and the newest that there is a schema of.
KUBERNETES_VERSIONS = ["1.27.0", kubernetes_validate.latest_version()]

# What `systemd-analyze security` may say, of 10. It says 1.4, for what a server on a network needs; other versions may
# count another way.
MAX_EXPOSURE = 2.0

# The commands of sumd that deploy/ uses.
COMMANDS = ["serve", "health", "backup", "restore", "counter inc"]


def kubernetes(help):
    """Renders each kustomization as `kubectl apply -k` does; no field may be unknown or of a wrong type."""
    listed = set()
    for file in sorted(KUBERNETES.glob("*/kustomization.yaml")):
        kustomization = yaml.safe_load(file.read_text())
        for name in [*kustomization.get("resources", []), *kustomization.get("components", [])]:
            listed.add((file.parent / name).resolve())
        listed.update((file.parent / patch["path"]).resolve() for patch in kustomization.get("patches", []))
        if kustomization["kind"] == "Component":
            continue  # It is rendered where it is used.
        where = file.parent.relative_to(ROOT)
        documents = list(yaml.safe_load_all(run(TOOLS / "kubectl", "kustomize", file.parent)))
        for document in documents:
            for version in KUBERNETES_VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    field = ".".join(map(str, error.path))
                    yield f"{where}: {document['kind']}, Kubernetes {version}: {field}: {error.message}"
        yield from (f"{where}: {problem}" for problem in references(documents, help))

    # What nobody lists was not rendered, and so not checked.
    for file in KUBERNETES.glob("*/*.yaml"):
        if file.name != "kustomization.yaml" and file not in listed:
            yield f"{file.relative_to(ROOT)} is in no kustomization"
    for file in KUBERNETES.glob("*/kustomization.yaml"):
        if yaml.safe_load(file.read_text())["kind"] == "Component" and file.parent not in listed:
            yield f"{file.relative_to(ROOT)} is a component that nothing uses"


def references(documents, help):
    """What one object says of another, which no schema knows."""
    [pods] = [document for document in documents if document["kind"] == "StatefulSet"]
    template = pods["spec"]["template"]
    [container] = template["spec"]["containers"]
    labels = template["metadata"]["labels"].items()
    ports = {port["name"] for port in container["ports"]}
    services = {}
    selectors = [("StatefulSet", pods["spec"]["selector"]["matchLabels"])]
    for spread in template["spec"].get("topologySpreadConstraints", []):
        selectors.append((spread["topologyKey"], spread["labelSelector"]["matchLabels"]))
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        if kind == "Service":
            services[document["metadata"]["name"]] = spec
            selectors.append((kind, spec["selector"]))
            unknown = {port["targetPort"] for port in spec["ports"]} - ports
            if unknown:
                yield f"Service: no container has the port {unknown}"
        elif kind == "PodDisruptionBudget":
            selectors.append((kind, spec["selector"]["matchLabels"]))
        elif kind == "NetworkPolicy":
            selectors.append((kind, spec["podSelector"]["matchLabels"]))
    for kind, selector in selectors:
        if not selector.items() <= labels:
            yield f"{kind}: {selector} selects no pod"

    name = pods["spec"]["serviceName"]
    if services.get(name, {}).get("clusterIP") != "None":
        yield f"StatefulSet: its Service {name} is missing, or has an address"

    [config] = [document for document in documents if document["kind"] == "ConfigMap"]
    if container["envFrom"] != [{"configMapRef": {"name": config["metadata"]["name"]}}]:
        yield "StatefulSet: it takes its options from another ConfigMap"
    known = set(config["data"])
    for variable in container["env"]:
        for reference in re.findall(r"\$\((\w+)\)", variable.get("value", "")):
            if reference not in known:
                yield f"StatefulSet: $({reference}) is not known where {variable['name']} uses it"
        known.add(variable["name"])
    # In what a name has of the Services, since kustomize does not change it there.
    for advertised in re.findall(r"\$\(POD_NAME\)\.([a-z-]+)", str(container["env"])):
        if advertised != name:
            yield f"StatefulSet: its pods have no name of the Service {advertised}"
    grace = template["spec"]["terminationGracePeriodSeconds"]
    yield from drain("terminationGracePeriodSeconds", grace, config["data"], help)


def systemd(help):
    """Has systemd read the unit, and judge how much a server that was taken over could do."""
    text = UNIT.read_text()
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / UNIT.name
        # It must be there, and do no more than that.
        unit.write_text(text.replace("/usr/local/bin/sumd", sys.executable))
        # Unknown keys are only told.
        for line in run("systemd-analyze", "verify", "--man=no", unit).splitlines():
            yield f"{UNIT.relative_to(ROOT)}: {line.removeprefix(folder)}"
        Path(folder, "etc").mkdir()
        run("systemd-sysusers", f"--root={folder}", UNIT.with_name("sumd.sysusers.conf"))
        users = Path(folder, "etc/passwd").read_text()
    user = re.search(r"^User=(.*)$", text, re.M).group(1)
    if not re.search(f"^{user}:", users, re.M):
        yield f"{UNIT.relative_to(ROOT)}: nobody makes the user {user}"
    security = run("systemd-analyze", "security", "--no-pager", "--offline=yes", UNIT)
    exposure = float(re.search(r"Overall exposure level.*: ([\d.]+)", security).group(1))
    if exposure > MAX_EXPOSURE:
        open_doors = "\n".join(line for line in security.splitlines() if line.startswith("✗"))
        yield f"{UNIT.relative_to(ROOT)}: the exposure is {exposure}, above {MAX_EXPOSURE}:\n{open_doors}"
    example = UNIT.with_name("sumd.env").read_text()
    options = dict(re.findall(r"^(\w+)=(.*)$", example, re.M))
    grace = seconds(re.search(r"^TimeoutStopSec=(.*)$", text, re.M).group(1))
    # What is only suggested must fit, too.
    suggested = dict(re.findall(r"^#?(\w+)=(.*)$", example, re.M))
    for options in (options, suggested):
        yield from drain(f"{UNIT.relative_to(ROOT)}: TimeoutStopSec", grace, options, help)


def compose(help):
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    where = COMPOSE.relative_to(ROOT)
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    tested = re.search(r"go.etcd.io/etcd/server/v3 (\S+)", (ROOT / "tests/etcd/go.mod").read_text()).group(1)
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            if other not in services:
                yield f"{where}: {name} depends on {other}, which is not there"
        environment = service["environment"]
        if "SUMD_STORE" in environment:
            grace = seconds(service["stop_grace_period"])
            yield from drain(f"{where}: {name}: stop_grace_period", grace, environment, help)
        elif not service["image"].endswith(f":{tested}"):
            yield f"{where}: {name} is {service['image']}, but the tests run {tested}"


def dockerfile(help):
    file, ignored = DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.dockerignore"
    run(TOOLS / "hadolint", "--no-color", file)
    copies = re.findall(r"^COPY (?!--from)(.*)$", file.read_text(), re.M)
    copied = {name for copy in copies for name in copy.split()[:-1]}
    let_in = {line[1:] for line in ignored.read_text().splitlines() if line.startswith("!")}
    for name in sorted(copied ^ let_in):
        yield f"{name} is copied but not let in by {ignored.name}, or the other way round"


def scripts(help):
    run(TOOLS / "shellcheck", *SCRIPTS)
    return []


def names(help):
    """A name that sumd does not know is one that somebody has set in vain."""
    known = set(re.findall(r"SUMD_[A-Z_]+[A-Z]", help))
    flags = set(re.findall(r"--[a-z][a-z-]+", help))
    for file in sorted(file for file in DEPLOY.rglob("*") if file.is_file()):
        text = file.read_text()
        for name in sorted(set(re.findall(r"SUMD_[A-Z_]+[A-Z]", text)) - known):
            yield f"{file.relative_to(ROOT)}: sumd does not know {name}"
        # What comes after `sumd serve` and the like on a line, or first between backticks; others are other programs'.
        commands = "\n".join(re.findall(rf"\bsumd\W+(?:{'|'.join(COMMANDS)})\b.*|`--.*?`", text))
        for flag in sorted(set(re.findall(r"--[a-z][a-z-]+", commands)) - flags):
            yield f"{file.relative_to(ROOT)}: sumd does not know {flag}"


def drain(where, grace, options, help):
    """Who stops sumd must wait for longer than it drains, or calls that it has accepted are lost."""
    time = 0
    for name in ("SUMD_DRAIN_DELAY", "SUMD_DRAIN_TIMEOUT"):
        default = re.search(rf"\[env: {name}=.*\]\s+\[default: (\w+)\]", help).group(1)
        time += seconds(options.get(name, default))
    if grace < time + 5:
        yield f"{where} is {grace:g} s, but sumd drains for {time:g}, and then has to close its store"


def seconds(text):
    amount, unit = re.fullmatch(r"(\d+)(ms|s|m|min)", text).groups()
    return int(amount) * {"ms": 0.001, "s": 1, "m": 60, "min": 60}[unit]


def run(*command):
    """What a program prints. Where it fails, that is the problem."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stdout}")
    return result.stdout


def helps():
    sumd = ["cargo", "run", "--locked", "--quiet", "--"]
    return "\n".join(run(*sumd, *command.split(), "--help") for command in COMMANDS)


def main():
    help = helps()
    failed = 0
    checks = [kubernetes, systemd, compose, dockerfile, scripts, names]
    for check in checks:
        try:
            problems = list(check(help))
        except (RuntimeError, FileNotFoundError) as error:
            problems = [error]
        for problem in problems:
            print(f"{check.__name__}: {problem}", file=sys.stderr)
        failed += bool(problems)
    print(f"deploy: {len(checks) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
