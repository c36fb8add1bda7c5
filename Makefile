# make run | test | airflow | distributed | setup | test-newest | test-install | benchmark |
# benchmark-distributed | campaign | campaign-distributed | fuzz | screenshots | dependencies |
# lock | catalogs: see README.md

SHELL := /bin/bash
PYTHON ?= python3
# Another Python than the usual one has a virtual environment of its own beside it.
VENV := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
NEWEST := 3.14
BIN := $(CURDIR)/$(VENV)/bin
# The Debian packages below a heading of packages.txt.
packages_for = $(shell awk -v part=$(1) '/^[^a-z]/ { on = $$2 == part; next } on' packages.txt)

# One place says where Airflow finds the project; deploy/puavo-repository.env repeats it.
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
run airflow distributed: export PUAVO_REPOSITORY_IMAGE_DIR := $(CURDIR)/demo/images
run airflow distributed: export PUAVO_REPOSITORY_MIRROR_DIR := $(CURDIR)/demo/mirror
run airflow distributed: export PUAVO_REPOSITORY_PUAVO_OS := $(CURDIR)/demo/puavo-os
run airflow distributed: export PUAVO_REPOSITORY_REMOTE := $(or $(REMOTE),file://$(CURDIR)/demo/published)
# The first run is for the person who looks on to start.
airflow distributed: export PUAVO_REPOSITORY_SCHEDULE :=
# Nobody serves the demo by https.
airflow distributed: export PUAVO_REPOSITORY_AUDIT_HTTPS := false
DEMO := demo
else
run airflow distributed: export PUAVO_REPOSITORY_IMAGE_DIR := $(IMAGE_DIR)
run airflow distributed: export PUAVO_REPOSITORY_MIRROR_DIR := $(MIRROR_DIR)
run airflow distributed: export PUAVO_REPOSITORY_REMOTE := $(REMOTE)
endif
run airflow distributed: export PUAVO_REPOSITORY_REPOSITORY := $(REPOSITORY)
# Nobody waits for a retry here, and nothing of the run is needed afterwards: the embedded
# database is made for it alone.
run: export PUAVO_REPOSITORY_RETRIES := 0
run: export AIRFLOW_HOME := $(CURDIR)/.airflow/run
# What a task failed of is told without Airflow.
run: export AIRFLOW__LOGGING__LOGGING_LEVEL := CRITICAL
# Status 2 is for settings that cannot be used: they were told, and are the same for publishing.

.PHONY: setup run test test-newest campaign campaign-distributed fuzz benchmark benchmark-distributed \
    airflow distributed screenshots dependencies lock catalogs demo packages distributed-packages test-packages test-setup \
    test-install
.DEFAULT_GOAL := run

# Compiled here, for the service's user may not write beside the sources.
setup: packages $(VENV)/.complete
	@$(BIN)/python -m compileall -q include dags plugins

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
	$(call need,$(call packages_for,run))

test-setup: setup test-packages $(VENV)/.complete-dev

$(VENV)/.complete-dev: requirements-dev.txt $(VENV)/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

distributed-packages: packages
	$(call need,$(call packages_for,distributed) $(if $(filter kernels,$(MACHINES)),$(call packages_for,kernels)))

test-packages: distributed-packages
	$(call need,$(call packages_for,test))

demo: setup
	@python -m puavo_repository.demo demo/images >/dev/null
	@mkdir -p demo/published

run: setup $(DEMO)
	@rm -rf $(AIRFLOW_HOME) && airflow db migrate >/dev/null 2>&1 || airflow db migrate
	@python dags/puavo_repository_prepare.py; status=$$?; \
	if [ -n "$$PUAVO_REPOSITORY_REMOTE" ] && [ $$status != 2 ]; then \
	    python dags/puavo_repository_publish.py || status=$$?; \
	fi; exit $$status

# Airflow with its UI, for one person on this machine; docs/install.md tells of a service.
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

# The same on several machines, which are made on this one: PostgreSQL, Redis and WORKERS machines
# with Celery workers; as root. docs/distributed.md tells of real ones. With MACHINES=kernels each has
# a Linux of its own (user-mode-linux), with its own clock, and the folders by NFS; slower.
MACHINES ?= namespaces
distributed: WORKERS := 2
distributed: export AIRFLOW_HOME := $(CURDIR)/.airflow/distributed
distributed: setup distributed-packages $(DEMO)
	@PYTHONPATH=include:tests exec python -m support.distributed $(WORKERS) $(MACHINES)

# More than cores: many tests wait for something. Airflow and the browser stay with one
# worker, see tests/conftest.py.
WORKERS ?= 4
test: test-setup
	ruff format --check .
	ruff check .
	mypy & types=$$!; python -m pytest -n $(WORKERS); tests=$$?; wait $$types && exit $$tests

# With the newest Python that Airflow supports; uv brings it where the system has none.
test-newest:
	@python=$$(command -v python$(NEWEST) \
	    || { uv python install --quiet $(NEWEST) && uv python find $(NEWEST); }) \
	    || { echo "python$(NEWEST) is missing, and uv could not bring it;" \
	        "another one: make test PYTHON=python3.13" >&2; exit 1; }; \
	$(MAKE) test PYTHON="$$python"

# The long forms of what the suite tries in short. campaign: every way to reach a remote and every
# case of which the suite draws some, every fault that may strike a run, every step that it may be
# killed at, and whatever happens in any order; some 50 minutes on two cores. fuzz: 10,000 pairs of
# files for the delta engine, foreign bytes for all that reads some.
campaign: test-setup
	python -m pytest -n $(WORKERS) --every-way
	PYTHONPATH=include:tests nice python -m campaign.run
	PYTHONPATH=include:tests nice python -m campaign.machine --examples 40 --steps 30
	PYTHONPATH=include:tests nice python -m campaign.fleet

# The faults of several machines, in runs of 200 images in 20 series, which take hours; as root.
# ONLY names some of them, see tests/campaign/distributed.py; MACHINES as above, IMAGES of each of
# SERIES fewer where each machine has a Linux of its own.
ONLY ?=
SERIES ?= 20
IMAGES ?= 10
campaign-distributed: test-setup
	$(call need,$(call packages_for,campaign))
	PYTHONPATH=include:tests python -m campaign.distributed --machines $(MACHINES) \
	    --series $(SERIES) --images $(IMAGES) $(if $(ONLY),--fault $(ONLY))

fuzz: test-setup
	PYTHONPATH=include:tests python tests/delta/fuzz.py 10000
	python -m pytest --hypothesis-profile long --timeout 7200 $(shell find tests -name 'test_foreign_*')

# Side by side with what would be run instead; DIR holds three images of one series.
DIR ?=
benchmark: test-setup
	@[ -n "$(DIR)" ] || { echo "usage: make benchmark DIR=folder-with-three-images" >&2; exit 2; }
	@PYTHONPATH=include:tests python -m benchmarks.compare "$(DIR)"
	@images=("$(DIR)"/*.img); \
	    PYTHONPATH=include:tests python tests/benchmarks/sftp.py "$${images[-2]}" "$${images[-1]}"
	@PYTHONPATH=include:tests python -m benchmarks.plans
	@PYTHONPATH=include:tests python -W ignore -m benchmarks.page

# A worker on one core beside two with a core each; DIR as there. As root, on a machine at rest.
benchmark-distributed: test-setup
	@[ -n "$(DIR)" ] || { echo "usage: make benchmark-distributed DIR=folder-with-images" >&2; exit 2; }
	@PYTHONPATH=include:tests python -m benchmarks.machines "$(DIR)"

# The pictures of the page in docs/screenshots, of sample data.
screenshots: test-setup
	PYTHONPATH=include:tests python -m support.screenshots

# Known vulnerabilities of what is pinned; asks the network, and fails where one
# package could not be looked up.
dependencies: setup
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip \
	    --requirement requirements.txt --requirement requirements-dev.txt

LOCK := uv pip compile --universal --python-version 3.11 --no-header --no-annotate --quiet
lock:
	$(LOCK) pyproject.toml --output-file requirements.txt
	$(LOCK) --group test --constraint requirements.txt --output-file requirements-dev.txt

# Brings what people read into the catalogs of the languages, for translators. A sentence that has
# changed is a new one: its old translation goes.
catalogs: test-setup
	PYTHONPATH=include:tests python -m support.catalogs

# docs/install.md, word by word, in two fresh Debian roots below DIR; as root, with debootstrap.
test-install:
	@[ -n "$(DIR)" ] || { echo "usage: make test-install DIR=new-folder" >&2; exit 2; }
	$(PYTHON) tests/deploy/fresh_roots.py "$(DIR)"
