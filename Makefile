# What one does with Valiant; `make` alone prints the targets. Everything that is built lies in .build*.
# ARGS are handed on: make run ARGS='--port 4201 --threads 2', make bench ARGS=...

BINARY = .build/release/valiant
ARGS   =

.NOTPARALLEL:
.PHONY: help run deps build test unit lint smoke clients differential crash sanitize thread address fuzz fuzz-short bench version deb \
  deb-test clean

help: ## Print the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' Makefile | expand -t 20

run: ## Install what is missing, build, and serve on port 4200 (ARGS: the server's flags)
	@Tests/install-dependencies.sh build
	@$(MAKE) --no-print-directory build
	@mkdir -p .build/keys
	exec $(BINARY) --dir .build/keys $(ARGS)

deps: ## Install the Debian packages which are missing for everything here
	@Tests/install-dependencies.sh build test package

build: ## Build the server, .build/release/valiant
	swift build -c release --static-swift-stdlib --product valiant

test: deps lint build smoke clients differential crash unit sanitize fuzz-short deb-test ## Everything that CI checks

unit: build ## Run the Swift tests
	swift test --disable-xctest

lint: ## Check the formatting
	swift format lint --strict --recursive Sources Tests Package.swift

smoke: build ## Try the server with redis-cli, nc and redis-benchmark, and how it starts and ends
	Tests/smoke/run.sh $(BINARY)

clients: build ## Try the server with client libraries
	Tests/clients/run.sh $(BINARY)

differential: build ## Compare replies with those of redis-server (ARGS=--seed\ N for other requests than these)
	python3 Tests/differential/differential.py $(BINARY) --seed 1 $(ARGS)

crash: build ## Kill servers while clients write, and look for what is missing (ARGS=--rounds\ N)
	python3 Tests/crash/crash.py $(BINARY) $(ARGS)

sanitize: thread address ## Run the Swift tests under ThreadSanitizer and AddressSanitizer

thread: # Folders of their own: the objects differ. The first race ends the run.
	TSAN_OPTIONS=halt_on_error=1 swift test --disable-xctest --sanitize=thread --scratch-path .build-thread

address: # LeakSanitizer reports what Foundation's Process keeps, in tests that start the server.
	ASAN_OPTIONS=detect_leaks=0 swift test --disable-xctest --sanitize=address --scratch-path .build-address

fuzz: ## Feed the request parser and the readers of files with random bytes, a minute each
	Tests/fuzz/run.sh 60

fuzz-short:
	Tests/fuzz/run.sh 10

bench: build ## Compare with redis-server on this machine (ARGS: see Benchmarks/bench.py --help)
	@Tests/install-dependencies.sh bench
	python3 Benchmarks/bench.py $(ARGS)

version: ## Take the version from debian/changelog, where it is decided
	sed -i "s/\(static let valiant = \)\".*\"/\1\"$$(sed -n '1s/.*(\(.*\)-.*/\1/p' debian/changelog)\"/" \
	  Sources/Valiant/Support/Version.swift

deb: ## Build the Debian package, .build-deb/valiant_*.deb
	@Tests/install-dependencies.sh build package
	Tests/package/build.sh

deb-test: deb ## Check the package: lintian, twice the same, and the service in a throw-away Debian with systemd
	Tests/package/run.sh

clean: ## Remove everything that was built
	rm -rf .build .build-thread .build-address .build-fuzz .build-python .build-deb
