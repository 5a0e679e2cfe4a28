# `make` alone says what there is.  Everything a developer needs lands in .venv and .cache of the checkout.

PREFIX ?= /usr
DESTDIR ?=
SPOOL ?= /var/spool/batchmail
ifndef PYTHON
PYTHON := $(shell for p in /usr/bin/python3 /usr/bin/python3.1[1-9] python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$p"; break; }; done)
endif

BIN = $(DESTDIR)$(PREFIX)/bin
LIB = $(DESTDIR)$(PREFIX)/lib/batchmail
MAN = $(DESTDIR)$(PREFIX)/share/man
DOC = $(DESTDIR)$(PREFIX)/share/doc/batchmail
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
SYSUSERS = $(DESTDIR)$(PREFIX)/lib/sysusers.d
TMPFILES = $(DESTDIR)$(PREFIX)/lib/tmpfiles.d

PROGRAMS = $(wildcard bin/batchmail*)
MODULES = $(shell find batchmail -name '*.py')
LINKS = bsmtp uux rmail
PAGES = $(wildcard man/*.[1-8])
UNIT_FILES = $(wildcard contrib/systemd/*.service contrib/systemd/*.timer contrib/systemd/*.socket contrib/systemd/*.path)
# Documents, and what an administrator copies: hooks, cron's table, recipes for mail servers, configurations to begin with.
DOC_FILES = $(wildcard README.md CHANGELOG.md docs/*.md) \
	$(filter-out $(UNIT_FILES) contrib/call-now contrib/sysusers.d/% contrib/tmpfiles.d/%, $(shell find contrib -type f))
PLACE = sed 's|/usr/bin/batchmail|$(PREFIX)/bin/batchmail|g; s|/usr/lib/batchmail|$(PREFIX)/lib/batchmail|g'

RUNTIME_STAMP = .venv/runtime
TOOLS_STAMP = .venv/tools
VENV = PYTHON="$(PYTHON)" sh .ci/venv
# Asked when the tests begin: an environment of the system's libraries may lack pytest-xdist.
WORKERS = $(shell .venv/bin/python -c 'import xdist; print("-n auto --maxprocesses 4 --dist loadgroup")' 2>/dev/null)

.PHONY: help demo test lint bench install uninstall clean python
help:
	@echo 'make demo        show the main job end to end: no root, no mail server, no sshd'
	@echo 'make test        lint, then all tests; real servers are fetched where that is possible'
	@echo 'make lint        ruff and mypy'
	@echo 'make bench       measure'
	@echo 'make install     PREFIX=$(PREFIX), DESTDIR, PYTHON=$(PYTHON)'
	@echo 'make uninstall   remove what install put there; a spool is left alone'
	@echo 'make clean       remove .venv, caches and unpacked servers'

demo: $(RUNTIME_STAMP)
	@.venv/bin/python bin/batchmail demo

test: $(TOOLS_STAMP) lint
	.venv/bin/python -m tests.servers.packages
	.venv/bin/python -m pytest $(WORKERS) $(PYTEST)

lint: $(TOOLS_STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: $(TOOLS_STAMP)
	.venv/bin/python -m bench

$(RUNTIME_STAMP): pyproject.toml | python
	@$(VENV) .venv && touch $@

$(TOOLS_STAMP): pyproject.toml | python
	@$(VENV) .venv test lint && touch $@ $(RUNTIME_STAMP)

python:
	@[ -n "$(PYTHON)" ] || { echo 'batchmail needs Python 3.11 or later: apt-get install python3 python3-venv, or make PYTHON=/path/to/it' >&2; exit 1; }

install: python
	@echo 'Installing below $(DESTDIR)$(PREFIX), to be run by $(PYTHON)'
	@install -d '$(BIN)' '$(LIB)' '$(DOC)'
	@set -e; for file in $(MODULES); do install -D -p -m 644 "$$file" '$(LIB)'/"$$file"; done
	@'$(PYTHON)' -m compileall -q -f $(if $(DESTDIR),-s '$(DESTDIR)') '$(LIB)/batchmail'
	@'$(PYTHON)' -IS '$(LIB)/batchmail/cli/bundle.py' '$(LIB)'
	@set -e; for file in $(PROGRAMS); do target='$(BIN)'/"$${file##*/}"; \
		sed '1s|^#!.*python3[^ ]*|#!$(PYTHON)|' "$$file" >"$$target"; chmod 755 "$$target"; done
	@set -e; for name in $(LINKS); do ln -sfn ../../bin/batchmail-pipe '$(LIB)'/"$$name"; done
	@set -e; for page in $(PAGES); do install -D -m 644 "$$page" '$(MAN)'/man"$${page##*.}/$${page##*/}"; done
	@set -e; for file in $(UNIT_FILES); do install -d '$(UNITS)'; target='$(UNITS)'/"$${file##*/}"; \
		$(PLACE) "$$file" >"$$target"; chmod 644 "$$target"; done
	@set -e; for file in $(wildcard contrib/sysusers.d/*.conf); do install -D -m 644 "$$file" '$(SYSUSERS)'/"$${file##*/}"; done
	@set -e; for file in $(wildcard contrib/tmpfiles.d/*.conf); do install -D -m 644 "$$file" '$(TMPFILES)'/"$${file##*/}"; done
	@install -m 755 contrib/call-now '$(LIB)'
	@for name in click paramiko zstandard; do '$(PYTHON)' -c "import $$name" 2>/dev/null || \
		echo "WARNING: $(PYTHON) cannot import $$name, which batchmail needs: apt install python3-$$name" >&2; done
	@set -e; for file in $(DOC_FILES); do target='$(DOC)'/"$$file"; install -D -m 644 "$$file" "$$target"; \
		$(PLACE) "$$file" >"$$target"; [ ! -x "$$file" ] || chmod 755 "$$target"; done
ifeq ($(DESTDIR),)
	@echo
	@echo 'Installed.  Next:'
	@echo '  systemd-sysusers batchmail.conf                  the account batchmail'
	@echo '  systemd-tmpfiles --create batchmail.conf         $(SPOOL)'
	@echo '  write /etc/batchmail/batchmail.toml              see batchmail.toml(5)'
	@echo '  batchmail setup && batchmail check               then the mail server: see $(PREFIX)/share/doc/batchmail/README.md'
endif

uninstall:
	@rm -f $(foreach file,$(PROGRAMS),'$(BIN)/$(notdir $(file))')
	@rm -f $(foreach name,$(LINKS),'$(LIB)/$(name)')
	@rm -rf '$(LIB)/batchmail' '$(LIB)'/pipe.*
	@for page in $(PAGES); do rm -f '$(MAN)'/man"$${page##*.}/$${page##*/}"; done
	@rm -f $(foreach file,$(UNIT_FILES),'$(UNITS)/$(notdir $(file))')
	@rm -f $(foreach file,$(wildcard contrib/sysusers.d/*.conf),'$(SYSUSERS)/$(notdir $(file))')
	@rm -f $(foreach file,$(wildcard contrib/tmpfiles.d/*.conf),'$(TMPFILES)/$(notdir $(file))')
	@rm -f '$(LIB)/call-now' $(foreach file,$(DOC_FILES),'$(DOC)/$(file)')
	@[ ! -d '$(DOC)' ] || find '$(DOC)' -mindepth 1 -depth -type d -empty -delete
	@for place in '$(LIB)' '$(DOC)'; do [ ! -d "$$place" ] || rmdir --ignore-fail-on-non-empty "$$place"; done
	@if [ -d '$(DESTDIR)$(SPOOL)' ]; then \
		waiting=$$(find '$(DESTDIR)$(SPOOL)' \( -name '*.bsmtp' -o -path '*/outbox/*' -o -path '*/inbox/*' \) -type f | wc -l); \
		echo "The spool $(DESTDIR)$(SPOOL) is left as it is; files in it that hold mail or its fate: $$waiting."; \
	fi

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache build
	find . -name __pycache__ -prune -exec rm -rf {} +
