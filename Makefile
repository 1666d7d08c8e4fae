# What a developer runs. Each target first installs what it needs: Python packages into .venv, and programs from Debian's
# packages where they are missing and this is root or has passwordless sudo (otherwise it says what is missing and goes on).

PYTHON ?= python3
# More arguments for the target's program, e.g.  make test ARGS="tests/core -k rename"
ARGS ?=
# make bench: length of the long list, e.g.  make bench BENCH_RECORDS=100000
BENCH_RECORDS ?= 1000000

VENV := .venv

.DEFAULT_GOAL := help
.PHONY: help demo test docs reference test-vm bench-vm check dashboards screenshots bench deb12 deb13 rpm packages test-packages clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo  ## The whole pipeline in 15 seconds: no root, no IMA, no broker needed
	$(VENV)/bin/dmimad demo $(ARGS)

test: $(VENV)/.installed-dev  ## All tests, and full branch coverage of the core
	@sh scripts/debian-packages.sh mosquitto:mosquitto promtool:prometheus amtool:prometheus-alertmanager \
		systemd-analyze:systemd openssl:openssl chromium:chromium curl:curl
	@sh scripts/test.sh $(VENV) $(ARGS)

docs: $(VENV)/.installed-docs  ## The documentation as a site: build/docs/html/index.html
	$(VENV)/bin/python -m sphinx -E -a -W --keep-going -n -q -c docs -d build/docs/doctrees . build/docs/html $(ARGS)

reference: $(VENV)/.installed-docs  ## What of docs/ and config/ is made from the code
	$(VENV)/bin/python -m scripts.reference

test-vm: $(VENV)/.installed-dev  ## The product on real kernels in virtual machines (see tests/vm; needs root)
	@sh scripts/debian-packages.sh qemu-system-x86_64:qemu-system-x86 swtpm:swtpm swtpm_setup:swtpm-tools \
		mmdebstrap:mmdebstrap cpio:cpio zstd:zstd depmod:kmod mkfs.ext4:e2fsprogs
	DMIMAD_VM=1 $(VENV)/bin/python -m pytest tests/vm $(ARGS)

bench-vm: $(VENV)/.installed-dev  ## Detection times on real kernels (about 10 minutes)
	@sh scripts/debian-packages.sh qemu-system-x86_64:qemu-system-x86 swtpm:swtpm swtpm_setup:swtpm-tools \
		mmdebstrap:mmdebstrap cpio:cpio zstd:zstd depmod:kmod
	$(VENV)/bin/python -m benchmarks.detection $(ARGS)

check: $(VENV)/.installed-dev  ## Lint, format and types
	@sh scripts/check.sh $(VENV)

dashboards: $(VENV)/.installed-dev  ## Write the Grafana dashboards anew from their code (scripts/grafana)
	$(VENV)/bin/python -m scripts.grafana

screenshots: $(VENV)/.installed-dev  ## The pictures of the status page in docs/images, made anew
	@sh scripts/debian-packages.sh chromium:chromium
	DMIMAD_SCREENSHOTS=1 $(VENV)/bin/python -m pytest tests/page/test_screenshots.py $(ARGS)

bench: $(VENV)/.installed-dev  ## Benchmarks as a table of ratios (a few minutes)
	@sh scripts/debian-packages.sh mosquitto:mosquitto evmctl:ima-evm-utils
	$(VENV)/bin/python -m benchmarks.bench --records $(BENCH_RECORDS) $(ARGS)

deb12 deb13 rpm: $(VENV)/.installed-dev
	@sh scripts/debian-packages.sh mmdebstrap:mmdebstrap
	$(VENV)/bin/python -m scripts.packages $@

packages: deb12 deb13 rpm  ## The packages for Debian 12, Debian 13 and Fedora into dist/packages; each also alone (needs root)

test-packages: $(VENV)/.installed-dev  ## Build, install, upgrade, remove and purge the packages (needs root)
	@sh scripts/debian-packages.sh mmdebstrap:mmdebstrap lintian:lintian rpm:rpm \
		mandoc:mandoc zsh:zsh fish:fish
	DMIMAD_PACKAGES=1 $(VENV)/bin/python -m pytest tests/packaging $(ARGS)

clean:  ## Remove the environments and everything built
	rm -rf $(VENV) .venv-* build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find dmimad tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-%: pyproject.toml scripts/venv.sh
	@PYTHON='$(PYTHON)' sh scripts/venv.sh $(VENV) $*
	@touch $@
