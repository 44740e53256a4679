# Every target creates the environment it needs; `make` alone lists the targets.

DATA ?=
OUT ?= records
REPORT ?= report
PYTHON ?=
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest --numprocesses=auto --dist=worksteal
READY := $(VENV)/.ready
# Not with requirements.txt: pip would demand hashes of these packages, too.
MORE := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.in
PHANTOM := build/phantom

.DEFAULT_GOAL := help
.PHONY: help records report test test-slow test-clients test-beam test-install fuzz verify lint format docs bench figures peers picture sample lock dependencies dist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

records: $(READY) $(if $(DATA),,$(PHANTOM)) ## run the main job: DATA=folder or .zip (default: the built-in phantom), OUT=directory
	@$(if $(DATA),,echo "No DATA= given: using the built-in phantom. For your own data: make records DATA=folder-or-zip")
	@$(RUN) -m preprocess --data_dir="$(or $(DATA),$(PHANTOM))" --output_dir="$(OUT)" --overwrite $(FLAGS)

report: $(READY) $(if $(DATA),,$(PHANTOM)) ## write the audit as pages, report/index.html first: DATA= and OUT= as for records, REPORT=folder
	@$(if $(DATA),,echo "No DATA= given: the report shows the built-in phantom. For your own data: make report DATA=folder-or-zip")
	@$(RUN) -m preprocess.report --data_dir="$(or $(DATA),$(PHANTOM))" --records_dir="$(OUT)" --output_dir="$(REPORT)" $(FLAGS)

test: $(READY) ## run the tests; those of real data need CARDIAC_DATA, or ../shared/data/final_data
	@$(PYTEST) -m "not slow and not clients and not beam and not install" $(FLAGS)

test-slow: $(READY) ## run the tests that make test leaves out
	@$(PYTEST) -m slow $(FLAGS)

test-beam: $(VENV)/.beam ## run the tests on Apache Beam and on Dask clusters
	@$(RUN) -m pytest -m beam $(FLAGS)

test-clients: $(VENV)/.clients ## run the tests with other people's readers (TFDS, tfrecord, PyTorch) and with stores (S3, Cloud Storage)
	@$(RUN) -m pytest -m clients $(FLAGS)

test-install: $(READY) ## install the wheel in new environments of python3.11, python3.12 and python3.13, with each extra, and use it
	@$(RUN) -m pytest -m install $(FLAGS)

fuzz: $(READY) ## feed damaged files to each reader: FLAGS="COUNT SEED TARGET" (default: 100000, a random seed, all)
	@$(RUN) -m tests.fuzz $(FLAGS)

verify: $(READY) ## check every byte of a records directory: OUT=directory
	@$(RUN) -m pipeline.verify "$(OUT)"

bench: $(READY) $(if $(DATA),,$(PHANTOM)) ## run the benchmarks, about an hour: masks, preprocessing and audit of DATA= (two studies or more; default: the phantom), reading, the order
	@$(RUN) -m benchmarks.bench_masks --data_dir="$(or $(DATA),$(PHANTOM))"
	@$(RUN) -m benchmarks.bench_preprocess --data_dir="$(or $(DATA),$(PHANTOM))"
	@$(RUN) -m benchmarks.bench_scan
	@$(RUN) -m benchmarks.bench_audit --data_dir="$(or $(DATA),$(PHANTOM))"
	@$(RUN) -m benchmarks.bench_read
	@$(RUN) -m benchmarks.bench_order

figures: peers ## measure the figures of the documents again and write them in place, hours: DATA=folder of the four real studies, DOCS=documents (default: all)
	@$(if $(DATA),,echo "make figures needs DATA=folder of the four real studies" >&2; exit 2)
	@$(RUN) -m benchmarks.figures --data_dir="$(DATA)" $(DOCS)

peers: $(READY) ## install the readers that make bench compares ours with (gigabytes)
	@$(MORE) --requirement requirements-bench.txt

lint: $(READY) ## run ruff and mypy
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

format: $(READY) ## reformat the code with ruff
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

docs: $(VENV)/.docs ## build the documentation as pages, build/site/index.html first; a broken link is an error
	@rm -rf build/site
	@$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -c docs -d build/doctrees --fresh-env . build/site
	@cp build/site/README.html build/site/index.html
	@echo "documentation: build/site/index.html"

picture: $(READY) $(PHANTOM) ## draw the README's picture
	@$(RUN) -m examples.draw_pair $(PHANTOM) docs/pair.png

sample: $(READY) $(PHANTOM) ## remake docs/sample, what a run on the phantom prints, writes and shows (needs Chromium)
	@$(RUN) -m examples.make_sample $(PHANTOM) docs/sample

lock: $(READY) ## write requirements.txt from requirements.in: all dependencies, and the hashes of their files
	@$(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" requirements.in --output-file requirements.txt

dependencies: $(READY) ## write docs/DEPENDENCIES.md: every package that an installation brings, its license, and why
	@$(MORE) --constraint requirements-beam.txt --constraint requirements-clients.txt \
	  distributed gcsfs s3fs
	@$(RUN) -m examples.list_dependencies docs/DEPENDENCIES.md

dist: $(READY) ## build the sdist, and from it the wheel, in dist
	@$(RUN) -m build --no-isolation --outdir dist

clean: ## remove what make can create again: the environment, the phantom, the site, the data of the benchmarks
	rm -rf $(VENV) $(PHANTOM) $(PHANTOM).partial build/bench build/site build/doctrees

$(PHANTOM): preprocess/phantom.py | $(READY)
	@rm -rf $@ $@.partial
	@echo "Writing the built-in phantom to $@"
	@$(RUN) -m preprocess.phantom --output_dir=$@.partial >/dev/null
	@mv $@.partial $@
	@touch $@

$(VENV)/.beam: requirements-beam.txt $(READY)
	@$(MORE) --requirement $<
	@touch $@

$(VENV)/.docs: requirements-docs.txt $(READY)
	@$(MORE) --requirement $<
	@touch $@

$(VENV)/.clients: requirements-clients.txt examples/requirements.txt $(READY)
	@$(MORE) --requirement requirements-clients.txt --requirement examples/requirements.txt
	@touch $@

# Editable: a script in any directory imports the project, and sees every change.
$(READY): pyproject.toml $(VENV)/.packages
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.packages: requirements.txt
	@python="$(PYTHON)"; found=; \
	for candidate in $${python:-python3.11 python3.12 python3.13 python3 python}; do \
	  "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	    && { found=$$candidate; break; }; \
	done; \
	test -n "$$found" || { echo "make: Python 3.11, 3.12 or 3.13 is needed; install one, or name it with PYTHON=" >&2; exit 1; }; \
	echo "Setting up $(VENV) with $$("$$found" --version) (once, a few minutes)"; \
	"$$found" -m venv --clear $(VENV) || { echo "make: $$found has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(RUN) -c 'import cv2' || { echo "make: OpenCV needs two system libraries; on Debian: apt-get install libgl1 libglib2.0-0" >&2; exit 1; }
	@touch $@
