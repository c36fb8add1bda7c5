"""Follows docs/install.md word by word in two fresh Debian roots, until a mirror is served.

``make test-install``: needs root, debootstrap and the network; some ten minutes. systemd does not
run in a root folder: what systemctl would start, the daemons and the ExecStart lines of the units,
is started here. What the document leaves to the reader is here, too: the host names, the
certificate, the key that is carried over, the images.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[2]
INSTALL = (PROJECT / "docs" / "install.md").read_text()
UNITS = PROJECT / "deploy" / "systemd"
HOSTS = "127.0.0.1 localhost\n127.0.0.2 www.example.org images.example.org\n"
# How this machine reaches Debian's and Python's packages.
NETWORK = ["/etc/resolv.conf", "/etc/apt", "/etc/ssl/certs", "/etc/pip.conf", "/etc/xdg/pip"]
NETWORK += ["/usr/local/share/ca-certificates", "/usr/share/ca-certificates", "/root/.config/pip"]
SITE = "/etc/nginx/sites-available/puavo-mirror"
PATIENCE = 1800  # seconds


def blocks(heading: str) -> list[str]:
    """Return what is to be typed below a heading."""
    section = INSTALL.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def inside(root: Path, typed: str) -> str:
    """Run a shell in a root as somebody who types these lines; return what it prints."""
    print(f"\n### {root.name}\n{typed}", flush=True)
    shell = ["chroot", str(root), "/bin/bash", "-eo", "pipefail", "-c", typed]
    done = subprocess.run(shell, check=False, stdout=subprocess.PIPE, text=True, cwd="/")
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"exit status {done.returncode}")
    return done.stdout


def fresh(root: Path) -> None:
    """Make a root of Debian 12 that no daemon is started in by itself."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=systemd", "bookworm", root], check=True
    )
    for name in NETWORK:
        if Path(name).is_dir():
            shutil.copytree(name, root / name[1:], symlinks=True, dirs_exist_ok=True)
        elif Path(name).exists():
            shutil.copy(name, root / name[1:])
    (root / "etc/hosts").write_text(HOSTS)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)


def mount(root: Path) -> None:
    subprocess.run(["mount", "--rbind", "/dev", root / "dev"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)


def wait(what: str, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {PATIENCE} s")
        time.sleep(5)


def start(root: Path, part: str) -> None:
    """Start a unit's ExecStart line as the service's user; wait as its ExecStartPost says."""
    unit = (UNITS / f"puavo-repository-{part}.service").read_text()
    airflow = re.search(r"^ExecStart=\S+/airflow (.+)$", unit, re.MULTILINE)
    after = re.search(r"^ExecStartPost=(.+)$", unit, re.MULTILINE)
    assert airflow
    with (root.parent / f"{part}.log").open("w") as log:
        command = ["chroot", str(root), "puavo-airflow", *airflow[1].split()]
        subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")
    if after:
        inside(root, "set -a; AIRFLOW__API__HOST=127.0.0.1 AIRFLOW__API__PORT=8080\n" + after[1])


def states(root: Path, dag: str) -> list[str]:
    """Return the states of a DAG's runs, none while Airflow does not know the DAG yet."""
    shell = ["chroot", str(root), "puavo-airflow", "dags", "list-runs", dag, "--output", "json"]
    out = subprocess.run(shell, check=False, capture_output=True, text=True, cwd="/").stdout
    runs = re.search(r"^\[\{.*\}\]$", out, re.MULTILINE | re.DOTALL)  # the log is before it
    return [run["state"] for run in json.loads(runs[0])] if runs else []


def ended(root: Path, dag: str) -> bool:
    found = states(root, dag)
    if "failed" in found:
        sys.exit(f"{dag} failed")
    return "success" in found


def program(prepare: Path) -> None:
    """The program and its files, from this working copy instead of a clone."""
    (typed,) = blocks("The program")
    source = prepare / "root" / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", PROJECT, source], check=True)
    inside(prepare, typed.replace("REPOSITORY_URL", "/root/source"))
    for typed in blocks("Its settings, commands and units"):
        inside(prepare, typed)


def publishing(prepare: Path, www: Path) -> None:
    """The key there, the host key here, and sshd."""
    key, let_in, accept = blocks("Where to publish")
    public = inside(prepare, key).strip()
    assert "PUBLIC_KEY='ssh-ed25519 AAAA…'" in let_in
    inside(www, let_in.replace("ssh-ed25519 AAAA…", public))
    inside(www, "mkdir -p /run/sshd && /usr/sbin/sshd -o ListenAddress=127.0.0.2")
    inside(prepare, accept)


def serving(prepare: Path, www: Path) -> None:
    """nginx, with a certificate of an authority of our own."""
    (typed,) = blocks("What clients fetch")
    shutil.copy(PROJECT / "deploy" / "nginx" / "mirror", www / "mirror")
    live = "/etc/letsencrypt/live/images.example.org"
    inside(
        www,
        f"apt-get install --yes openssl && rm /etc/nginx/sites-enabled/default && mkdir -p {live}\n"
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj /CN=images.example.org "
        f"-addext subjectAltName=DNS:images.example.org "
        f"-keyout {live}/privkey.pem -out {live}/fullchain.pem\n"
        "sed -i 's/listen 443/listen 127.0.0.2:443/' mirror\n" + typed,
    )
    inside(www, "nginx")
    shutil.copy(www / live[1:] / "fullchain.pem", prepare / "etc/school-ca.pem")
    with (prepare / "etc/puavo-repository.env").open("a") as settings:
        settings.write("PUAVO_REPOSITORY_CA_FILE=/etc/school-ca.pem\n")


def service(prepare: Path) -> None:
    """Images, database, units; then the night that starts by itself."""
    run = "runuser -u puavo-repository --"
    inside(
        prepare,
        f"PYTHONPATH=/opt/puavo-repository/include {run} /opt/puavo-repository/.venv/bin/python "
        "-m puavo_repository.demo /srv/images\n"
        "pg_conftool 15 main set listen_addresses '' && pg_ctlcluster 15 main start",
    )
    (typed,) = blocks("Its database, and the service")
    *before, password = typed.strip().splitlines()
    inside(prepare, "\n".join(before).replace("enable --now", "enable"))
    for part in ("api-server", "scheduler", "dag-processor", "triggerer"):
        start(prepare, part)
    inside(prepare, password)
    for dag in ("puavo_repository_prepare", "puavo_repository_publish"):
        wait(dag, lambda dag=dag: ended(prepare, dag))  # type: ignore[misc]


def check(prepare: Path) -> None:
    """What clients see, and that everything that the commands made belongs to the service."""
    (audit,) = blocks("Is it right?")
    inside(prepare, audit)
    inside(prepare, "puavo-update-repository /srv/images /srv/mirror")
    foreign = "find /srv/mirror /srv/images /var/lib/puavo-repository ! -user puavo-repository"
    assert inside(prepare, foreign) == ""
    curl = "curl --silent --cacert /etc/school-ca.pem https://images.example.org"
    assert '"images"' in inside(prepare, f"{curl}/meta/puavo-os-amxa-buster-amd64.json")
    assert "403 Forbidden" in inside(prepare, f"{curl}/.puavo-repository/")


def main(folder: Path) -> None:
    prepare, www = folder / "prepare", folder / "www"
    for root in (prepare, www):
        fresh(root)
        mount(root)
    program(prepare)
    publishing(prepare, www)
    serving(prepare, www)
    service(prepare)
    check(prepare)
    print(f"\nA served, audited mirror; the roots are in {folder}")


if __name__ == "__main__":
    if "--inside" not in sys.argv:  # what is mounted and started ends with this process
        again = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable]
        os.execvp(again[0], [*again, *sys.argv, "--inside"])
    main(Path(sys.argv[1]).resolve())
