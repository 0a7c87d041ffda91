# make demo   trains a colorizer on a handful of photographs and shows the result; PHOTOS=folder takes your own
# make test   what every change must pass, some minutes; make test-slow: the slow proofs, which CI runs after it
# make lint   what the pre-commit hooks and CI run

PYTHON ?= python3
BIN := .venv/bin
DALI ?= cuda13
PHOTOS ?= demo/photos

# Nine photographs that come in scikit-image's wheel, so that nothing has to be downloaded.
define copy_photos
echo "photographs: nine of those in scikit-image's wheel (skimage/data)"; mkdir -p demo/photos; \
cd "$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("skimage").submodule_search_locations[0])')/data" && \
cp astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png motorcycle_left.png motorcycle_right.png \
  retina.jpg rocket.jpg "$(CURDIR)/demo/photos"
endef

.PHONY: demo test test-slow lint install clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Photochrom needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv, which takes some minutes"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(DALI),dev]'
	@touch $@

demo: install
	rm -rf demo/shards demo/run demo/report demo/colorized
	@$(if $(filter demo/photos,$(PHOTOS)),$(copy_photos))
	$(BIN)/photochrom pack "$(PHOTOS)" demo/shards
	$(BIN)/photochrom train --config demo --data.train demo/shards --out demo/run
	$(BIN)/photochrom evaluate demo/run --data demo/shards --out demo/report
	$(BIN)/photochrom colorize "$(PHOTOS)" --model demo/run --out demo/colorized
	@echo "The report: $(CURDIR)/demo/report/report.html   The colorized photographs: $(CURDIR)/demo/colorized"

# Each of pytest's processes computes on one core: many threads on few cores would wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal
test: install
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf demo/shards demo/run demo/report demo/colorized build dist .venv/installed .mypy_cache .ruff_cache .pytest_cache .src/*.egg-info
