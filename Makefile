# make run | test | airflow | setup | benchmark | lock: see README.md

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
RUN_PACKAGES := python3-venv librsync2 squashfs-tools
TEST_PACKAGES := rdiff strace chromium chromium-driver

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
# The first run is for the person who looks on to start.
airflow: export PUAVO_REPOSITORY_SCHEDULE :=
airflow: REMOTE := $(if $(REMOTE),$(REMOTE),file://$(CURDIR)/demo/remote)
DEMO := demo
else
run airflow: export PUAVO_REPOSITORY_IMAGE_DIR := $(IMAGE_DIR)
run airflow: export PUAVO_REPOSITORY_MIRROR_DIR := $(MIRROR_DIR)
endif
run airflow: export PUAVO_REPOSITORY_REPOSITORY := $(REPOSITORY)
airflow: export PUAVO_REPOSITORY_REMOTE = $(REMOTE)
# Nobody waits for a retry here, and nothing of the run is needed afterwards: the embedded
# database is made for it alone.
run: export PUAVO_REPOSITORY_RETRIES := 0
run: export AIRFLOW_HOME := $(CURDIR)/.airflow/run
run: export AIRFLOW__LOGGING__LOGGING_LEVEL := ERROR

.PHONY: setup run test campaign airflow lock demo packages test-packages
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
	@mkdir -p demo/remote

run: setup $(DEMO)
	@rm -rf $(AIRFLOW_HOME) && airflow db migrate >/dev/null 2>&1 || airflow db migrate
	@python dags/puavo_repository_prepare.py

# Airflow with its UI, for one person on this machine; the README tells of a service.
PORT ?= 8080
airflow: export AIRFLOW_HOME := $(CURDIR)/.airflow/standalone
airflow: export AIRFLOW__API__HOST := 127.0.0.1
airflow: export AIRFLOW__API__PORT := $(PORT)
airflow: export AIRFLOW__API__BASE_URL := http://127.0.0.1:$(PORT)
airflow: export AIRFLOW__API__WORKERS := 1
airflow: export AIRFLOW__CORE__EXECUTION_API_SERVER_URL := http://127.0.0.1:$(PORT)/execution/
airflow: export AIRFLOW__CORE__EXECUTOR := LocalExecutor
airflow: export AIRFLOW__CORE__PARALLELISM := 4
airflow: export AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION := False
# A compute task that has every core may keep its supervisor from saying that it lives.
airflow: export AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS := 20
airflow: setup $(DEMO)
	@exec python -m puavo_repository_standalone

test: setup test-packages
	ruff format --check .
	ruff check .
	mypy
	python -m pytest

# The long forms of what the suite tries in short: a night killed at each of its steps.
campaign: setup test-packages
	PUAVO_CAMPAIGN=1 python -m pytest --timeout 3600 tests/end_to_end/test_interrupted.py

lock:
	uv pip compile pyproject.toml --group test --universal --python-version 3.11 \
	    --no-header --no-annotate --quiet --output-file requirements.txt
