# make run | test | test-newest | airflow | setup | benchmark | campaign | fuzz | dependencies | lock: see README.md

SHELL := /bin/bash
PYTHON ?= python3
# Another Python than the usual one has a virtual environment of its own beside it.
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
NEWEST := 3.14
BIN := $(CURDIR)/$(VENV)/bin
RUN_PACKAGES := python3-venv librsync2 squashfs-tools
TEST_PACKAGES := rdiff openssh-server openssh-client nginx-light openssl strace wget jq chromium \
    chromium-driver

# One place says where Airflow finds the project; the README's service set-up repeats it.
export AIRFLOW_HOME ?= $(CURDIR)/.airflow
export AIRFLOW__CORE__DAGS_FOLDER := $(CURDIR)/dags
export AIRFLOW__CORE__PLUGINS_FOLDER := $(CURDIR)/plugins
export AIRFLOW__CORE__LOAD_EXAMPLES := False
export PYTHONPATH := $(CURDIR)/include
export PATH := $(BIN):$(PATH)

# Without an image directory, `make run` works on small images that it makes.
IMAGE_DIR ?=
MIRROR_DIR ?=
REPOSITORY ?=
REMOTE ?=
ifeq ($(IMAGE_DIR),)
run airflow: export PUAVO_REPOSITORY_IMAGE_DIR := $(CURDIR)/demo/images
run airflow: export PUAVO_REPOSITORY_MIRROR_DIR := $(CURDIR)/demo/mirror
run airflow: export PUAVO_REPOSITORY_PUAVO_OS := $(CURDIR)/demo/puavo-os
run airflow: export PUAVO_REPOSITORY_REMOTE := $(or $(REMOTE),file://$(CURDIR)/demo/published)
# The first run is for the person who looks on to start.
airflow: export PUAVO_REPOSITORY_SCHEDULE :=
# Nobody serves the demo by https.
airflow: export PUAVO_REPOSITORY_AUDIT_HTTPS := false
DEMO := demo
else
run airflow: export PUAVO_REPOSITORY_IMAGE_DIR := $(IMAGE_DIR)
run airflow: export PUAVO_REPOSITORY_MIRROR_DIR := $(MIRROR_DIR)
run airflow: export PUAVO_REPOSITORY_REMOTE := $(REMOTE)
endif
run airflow: export PUAVO_REPOSITORY_REPOSITORY := $(REPOSITORY)
# Nobody waits for a retry here, and nothing of the run is needed afterwards: the embedded
# database is made for it alone.
run: export PUAVO_REPOSITORY_RETRIES := 0
run: export AIRFLOW_HOME := $(CURDIR)/.airflow/run
run: export AIRFLOW__LOGGING__LOGGING_LEVEL := ERROR

.PHONY: setup run test test-newest campaign fuzz benchmark airflow dependencies lock demo packages test-packages
.DEFAULT_GOAL := run

setup: packages $(VENV)/.complete

$(VENV)/.complete: requirements.txt | packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@touch $@

# Debian packages: installed when this runs as root, named when it does not.
define need
	@command -v dpkg-query >/dev/null || exit 0; missing=; \
	for package in $(1); do \
	    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
	        || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then \
	    echo "Debian packages are missing:$$missing" >&2; \
	    echo "Install them as root: apt-get install$$missing" >&2; exit 1; \
	fi; \
	echo "Installing Debian packages:$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null
endef

packages:
	$(call need,$(RUN_PACKAGES))

test-packages: packages
	$(call need,$(TEST_PACKAGES))

demo: setup
	@python -m puavo_repository.demo demo/images >/dev/null
	@mkdir -p demo/published

run: setup $(DEMO)
	@rm -rf $(AIRFLOW_HOME) && airflow db migrate >/dev/null 2>&1 || airflow db migrate
	@python dags/puavo_repository_prepare.py; status=$$?; \
	if [ -n "$$PUAVO_REPOSITORY_REMOTE" ]; then \
	    python dags/puavo_repository_publish.py || status=$$?; \
	fi; exit $$status

# Airflow with its UI, for one person on this machine; the README tells of a service.
PORT ?= 8080
airflow: export AIRFLOW_HOME := $(CURDIR)/.airflow/standalone
airflow: export AIRFLOW__API__HOST := 127.0.0.1
airflow: export AIRFLOW__API__PORT := $(PORT)
airflow: export AIRFLOW__API__BASE_URL := http://127.0.0.1:$(PORT)
airflow: export AIRFLOW__API__WORKERS := 1
airflow: export AIRFLOW__CORE__EXECUTOR := LocalExecutor
airflow: export AIRFLOW__CORE__PARALLELISM := 4
airflow: export AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION := False
# A compute task that has every core may keep its supervisor from saying that it lives.
airflow: export AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS := 20
airflow: setup $(DEMO)
	@exec python -m puavo_repository_airflow.standalone

test: setup test-packages
	ruff format --check .
	ruff check .
	mypy
	python -m pytest

# With the newest Python that Airflow supports; uv brings it where the system has none.
test-newest:
	@python=$$(command -v python$(NEWEST) \
	    || { uv python install --quiet $(NEWEST) && uv python find $(NEWEST); }) \
	    || { echo "python$(NEWEST) is missing, and uv could not bring it;" \
	        "another one: make test PYTHON=python3.13" >&2; exit 1; }; \
	$(MAKE) test PYTHON="$$python"

# The long forms of what the suite tries in short. campaign: every fault that may strike a run,
# every step that it may be killed at, and whatever happens in any order; some 40 minutes on two
# cores. fuzz: 10,000 pairs of files for the delta engine, foreign bytes for all that reads some.
campaign: setup test-packages
	PYTHONPATH=include:tests nice python -m campaign.run
	PYTHONPATH=include:tests nice python -m campaign.machine --examples 40 --steps 30

fuzz: setup test-packages
	PYTHONPATH=include:tests python tests/delta/fuzz.py 10000
	python -m pytest --hypothesis-profile long --timeout 7200 $(shell find tests -name 'test_foreign_*')

# Side by side with what would be run instead; DIR holds three images of one series.
DIR ?=
benchmark: setup test-packages
	@[ -n "$(DIR)" ] || { echo "usage: make benchmark DIR=folder-with-three-images" >&2; exit 2; }
	@PYTHONPATH=include:tests python -m benchmarks.compare "$(DIR)"
	@images=("$(DIR)"/*.img); \
	    PYTHONPATH=include:tests python tests/benchmarks/sftp.py "$${images[-2]}" "$${images[-1]}"
	@PYTHONPATH=include:tests python tests/benchmarks/plans.py

# Known vulnerabilities of what requirements.txt pins; asks the network, and fails where one
# package could not be looked up.
dependencies: setup
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements.txt

lock:
	uv pip compile pyproject.toml --group test --universal --python-version 3.11 \
	    --no-header --no-annotate --quiet --output-file requirements.txt
