"""Lays out every configuration of deploy/ as its machine would see it, checks it and starts the real binary with it."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import yaml

WAIT_SECONDS = 30
DEPLOY = pathlib.Path(__file__).parent


def main():
    run, binaries = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    pki = run / "pki"
    for name, kind, config, files, tls in layouts(pki, run):
        root = run / name
        for path, text in files.items():
            place(root, path, text)
        for path, source in tls.items():
            copy(root, path, source)
        start(name, binaries / f"tributary-{kind}", root / config.lstrip("/"), root)


def layouts(pki, run):
    """Name, binary, path of the configuration, files with their texts, files and folders to copy."""
    config = "/etc/tributary/config"
    tls = "/etc/tributary/tls"
    node = {f"{tls}/node-1.crt": run / "node-1/tls.crt", f"{tls}/node-1.key": run / "node-1/tls.key", f"{tls}/ca.crt": pki / "ca.crt"}
    for manifest, kind, own in [
        ("collector", "collector", {tls: pki / "collector"}),
        ("agent-sidecar", "agent", {tls: pki / "eu-1"}),
        ("agent-daemonset", "agent", node),
    ]:
        files = {f"{config}/{key}": text.replace("NODE_NAME", "node-1") for key, text in config_map(manifest, f"{kind}.yml")}
        yield f"kubernetes-{manifest}", kind, f"{config}/{kind}.yml", files, own
    for kind, names in [("collector", ["collector.yml", "rules.yml"]), ("agent", ["agent.yml", "allowlist.yml"])]:
        files = {f"/etc/tributary/{name}": (DEPLOY / "compose" / name).read_text() for name in names}
        yield f"compose-{kind}", kind, f"/etc/tributary/{kind}.yml", files, {"/pki": pki}
    for kind, names, cluster in [("collector", ["collector.yml"], "collector"), ("agent", ["agent.yml", "allowlist.yml"], "eu-1")]:
        folder = unit_folder(kind)
        files = {f"{folder}/{name}": (DEPLOY / "systemd" / name).read_text() for name in names}
        yield f"systemd-{kind}", kind, f"{folder}/{kind}.yml", files, {f"{folder}/tls": pki / cluster}


def config_map(manifest, key):
    """The entries of the one ConfigMap that has the key."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / f"{manifest}.yaml").read_text())
    found = [d["data"] for d in documents if d["kind"] == "ConfigMap" and key in d["data"]]
    assert len(found) == 1, f"{manifest}.yaml has {len(found)} ConfigMaps with {key}"
    return found[0].items()


def unit_folder(kind):
    """Where the unit's command line says its configuration is."""
    unit = (DEPLOY / "systemd" / f"tributary-{kind}.service").read_text()
    path = re.search(rf"^ExecStart=\S+/tributary-{kind} run --config\.file=(\S+)/{kind}\.yml$", unit, re.M)
    assert path, f"tributary-{kind}.service does not run tributary-{kind} with a configuration file"
    return path[1]


def place(root, path, text):
    """Writes a file below `root`, with its absolute paths moved there too."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(re.sub(r"(?<=[ \[])/(?=(etc|data|pki|spool|var)\b)", f"{root}/", text))


def copy(root, path, source):
    aim = root / path.lstrip("/")
    aim.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, aim)
    else:
        shutil.copy(source, aim)


def start(name, binary, config, root):
    """Checks the configuration, starts the binary on free ports, waits until it is ready, stops it: all must succeed."""
    for state in ["data", "spool", "var/lib"]:
        (root / state).mkdir(parents=True, exist_ok=True)
    kind = binary.name.removeprefix("tributary-")
    arguments = {"collector": ["check", "config", config], "agent": ["check", f"--config.file={config}"]}[kind]
    check = subprocess.run([binary, *arguments], capture_output=True, text=True)
    if check.returncode != 0:
        sys.exit(f"deploy/check: {name}: {' '.join(map(str, arguments))}: {check.stdout}{check.stderr}")
    web = free_port()
    ports = agent_ports(config, web) if kind == "agent" else collector_ports(web)
    log = root / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [binary, "run", f"--config.file={config}"], env=os.environ | ports, stdout=out, stderr=out, cwd=root
        )
    try:
        wait_ready(name, process, f"http://127.0.0.1:{web}/-/ready", log)
        process.send_signal(signal.SIGTERM)
        code = process.wait(WAIT_SECONDS + 35)
    finally:
        process.kill()
    if code != 0:
        sys.exit(f"deploy/check: {name}: ended with {code} after SIGTERM\n{log.read_text()}")
    print(f"   {name}: ready, stopped")


def collector_ports(web):
    return {"TRIBUTARY_WEB_LISTEN": f"127.0.0.1:{web}", "TRIBUTARY_INGEST_LISTEN": f"127.0.0.1:{free_port()}"}


def agent_ports(config, web):
    """The agent has one HTTP port: that of its remote-write source, or else of its pages."""
    remote_write = "remote_write" in yaml.safe_load(config.read_text())["sources"]
    name = "TRIBUTARY_SOURCES_REMOTE_WRITE_LISTEN" if remote_write else "TRIBUTARY_WEB_LISTEN"
    # Nobody is there: an agent must start, and stop in time, without its collector.
    return {name: f"127.0.0.1:{web}", "TRIBUTARY_COLLECTOR_ADDRESS": f"127.0.0.1:{free_port()}", "TRIBUTARY_SHUTDOWN_GRACE": "1s"}


def wait_ready(name, process, url, log):
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"deploy/check: {name}: {url} did not become ready\n{log.read_text()}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
