"""Changes the code at random, one place at a time (cargo-mutants), and tells which changes no test sees.

  MUTANTS_DIR    what is changed: files or folders under src, with a blank between them
  MUTANTS_COUNT  how many changes are tried; `all` for all that there are
  MUTANTS_SEED   which ones: the same seed picks the same ones of the same code

All mutants are in one program (schemata.py). Of the tests those are run that reach a mutant, the quick ones first, until one
fails. What cannot be in that program, such as constants, is built by itself. A mutant that makes a test hang counts as caught.

What is known is in target/mutants/mutants.json: a run that was broken off, or has another seed, goes on from there until the code
changes. Exits with 1 if a mutant was missed.
"""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import schemata

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "target/mutants"
# The code with all mutants in it, and that with one at a time.
ALL, ONE = OUT / "all", OUT / "one"
MUTANTS, TESTS = OUT / "mutants.json", OUT / "tests.json"
# Nobody looks at the backtrace of a mutant, and builds are faster without what it takes.
ENVIRONMENT = {
    **os.environ,
    "CARGO_PROFILE_DEV_DEBUG": "0",
    "RUST_BACKTRACE": "0",
    "SUMD_TEST_ETCD": str(ROOT / ".tools/bin/etcd"),
}
CORE = "src/model src/lane src/lane.rs src/store src/store.rs src/counter/record src/counter/record.rs"
# Tests of servers whose outcome does not hang on chance, without those that look for mutants themselves.
OF_SERVERS = re.compile(
    r"(calls|cluster|counters|crash|damage|etcd|formats|hostile|limits|listeners|logging|output|process|shutdown|simulation"
    r"|stores|transfer)::(?!.*(_found|soak)$)"
)
# At once: tests of servers wait more than they work.
PROCESSES = (os.cpu_count() or 1) + 1
# Tests of up to so many seconds are run by one process, and of slower ones so many.
QUICK = {"lib": 0.15, "it": 0.45}
SLOW = {"lib": 3, "it": 10}


def main():
    seed = int(os.environ.get("MUTANTS_SEED") or random.randrange(1 << 31))
    count = os.environ.get("MUTANTS_COUNT") or "20"
    mutants, tests = load()
    order = list(range(len(mutants)))
    random.Random(seed).shuffle(order)
    sample = order if count == "all" else order[: int(count)]
    print(f"MUTANTS_SEED={seed}: {len(sample)} of {len(mutants)} mutants", flush=True)

    reaching = defaultdict(list)
    for test in tests:
        for number in test["reaches"]:
            reaching[number].append(test)
    lock = threading.Lock()

    def look(number):
        mutant = mutants[number]
        if mutant["kind"] == "unviable" or "caught" in mutant:
            return
        if mutant["kind"] == "in":
            caught = hunt(number, reaching[number])
        else:
            caught = hunt_alone(mutant)
        with lock:
            mutant["caught"] = caught
            print(f"{caught or 'MISSED'}: {mutant['name']}", flush=True)
            write(MUTANTS, mutants)

    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(look, [number for number in sample if mutants[number]["kind"] == "in"]))
    # Each is a build, which all processors take part in.
    for number in sample:
        look(number)

    tried = [mutants[number] for number in sample if mutants[number]["kind"] != "unviable"]
    missed = [mutant["name"] for mutant in tried if not mutant["caught"]]
    print(f"\nMUTANTS_SEED={seed}: {len(tried) - len(missed)} of {len(tried)} viable mutants were caught;", end=" ")
    print(f"{len(sample) - len(tried)} did not compile")
    for name in missed:
        print(f"  missed: {name}")
    return bool(missed)


def load():
    """The mutants of this code, with what is known of them, and the tests: made anew if the code is another."""
    OUT.mkdir(parents=True, exist_ok=True)
    dirs = os.environ.get("MUTANTS_DIR") or CORE
    code = hashlib.sha256(dirs.encode())
    for path in sorted(files()):
        code.update(path.encode() + b"\0" + (ROOT / path).read_bytes())
    if TESTS.exists():
        known = json.loads(TESTS.read_text())
        if known["code"] == code.hexdigest():
            return json.loads(MUTANTS.read_text()), known["tests"]
    for tree in (ALL, ONE):
        copy(tree)
    chosen = [f"--file={path}/**" if (ROOT / path).is_dir() else f"--file={path}" for path in dirs.split()]
    listed = subprocess.run(["cargo", "mutants", "--list", "--json", *chosen], cwd=ONE, stdout=subprocess.PIPE, check=True)
    mutants = json.loads(listed.stdout)
    print(f"building a program of {len(mutants)} mutants", flush=True)
    environment = {**ENVIRONMENT, "CARGO_TARGET_DIR": str(OUT / "build")}
    for mutant, kind in zip(mutants, schemata.instrument(ALL, mutants, environment)):
        mutant["kind"] = kind
    write(MUTANTS, mutants)
    tests = reached(build(environment))
    write(TESTS, {"code": code.hexdigest(), "tests": tests})
    return mutants, tests


def files():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path and (ROOT / path).is_file()]


def copy(tree):
    shutil.rmtree(tree, ignore_errors=True)
    for path in files():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tree / path)


def write(path, value):
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)


def build(environment):
    """The programs of the unit tests and of those of servers."""
    command = ["cargo", "test", "--quiet", "--locked", "--no-run", "--lib", "--test=it", "--message-format=json"]
    lines = subprocess.run(command, cwd=ALL, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    built = [json.loads(line) for line in lines]
    built = [artifact for artifact in built if artifact.get("executable") and artifact["profile"]["test"]]
    return {artifact["target"]["kind"][0].replace("test", "it"): artifact["executable"] for artifact in built}


def reached(programs):
    """Runs each test without a mutant: how long it takes, and what it reaches."""
    tests = []
    for kind, program in programs.items():
        listed = subprocess.run([program, "--list", "--format=terse"], cwd=ALL, stdout=subprocess.PIPE, text=True, check=True)
        names = [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]
        names = [name for name in names if kind == "lib" or OF_SERVERS.match(name)]
        tests += [{"kind": kind, "program": program, "name": name} for name in names]
    print(f"running {len(tests)} tests without a mutant", flush=True)

    def look(numbered):
        number, test = numbered
        notes = OUT / f"reached.{number}"
        notes.unlink(missing_ok=True)
        begun = time.monotonic()
        if not passes([test], 600, MUTANT_REACHED=str(notes)):
            print(f"not used, since it fails without a mutant: {test['name']}", flush=True)
            return None
        took = round(time.monotonic() - begun, 2)
        numbers = sorted(map(int, notes.read_text().split())) if notes.exists() else []
        notes.unlink(missing_ok=True)
        return {**test, "seconds": took, "reaches": numbers}

    with ThreadPoolExecutor(PROCESSES) as pool:
        return [test for test in pool.map(look, enumerate(tests)) if test]


def hunt(number, tests):
    """The test that fails with a mutant, or how many that are run together; `None` if none does."""
    tests = sorted(tests, key=lambda test: test["seconds"])
    groups = []
    for kind in ("lib", "it"):
        mine = [test for test in tests if test["kind"] == kind]
        slow = [test for test in mine if test["seconds"] > QUICK[kind]]
        groups.append([test for test in mine if test["seconds"] <= QUICK[kind]])
        groups += [slow[at : at + SLOW[kind]] for at in range(0, len(slow), SLOW[kind])]
    for group in sorted(filter(None, groups), key=lambda group: group[-1]["seconds"]):
        limit = 30 + 6 * sum(test["seconds"] for test in group)
        # Twice, lest a busy machine is taken for a mutant.
        if not passes(group, limit, MUTANT_ON=str(number)) and not passes(group, limit, MUTANT_ON=str(number)):
            return group[0]["name"] if len(group) == 1 else f"one of {len(group)} tests"
    return None


def passes(tests, limit, **environment):
    """Whether tests of one program pass in time."""
    child = subprocess.Popen(
        [tests[0]["program"], "--exact", "--include-ignored", "--test-threads=4", *(test["name"] for test in tests)],
        cwd=ALL,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    timer = threading.Timer(limit, end, [child])
    timer.start()
    try:
        for line in child.stdout:
            if line.endswith(" FAILED\n"):
                return False
            if line.startswith("test result: ok"):
                return True
        return False
    finally:
        timer.cancel()
        end(child)
        child.wait()


def end(child):
    """Ends a process, and those that it has started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def hunt_alone(mutant):
    """Builds a mutant by itself, and runs all tests."""
    environment = {**ENVIRONMENT, "CARGO_TARGET_DIR": str(OUT / "build-one")}
    path = ONE / mutant["file"]
    before = path.read_bytes()
    try:
        subprocess.run(["patch", "--quiet", "--strip=0"], cwd=ONE, input=mutant["diff"], text=True, check=True)
        check = ["cargo", "check", "--quiet", "--locked", "--lib"]
        if subprocess.run(check, cwd=ONE, env=environment, stderr=subprocess.DEVNULL).returncode:
            mutant["kind"] = "unviable"
            return None
        tests = r"kind(lib) | test(/^%s/)" % OF_SERVERS.pattern.replace("(?!.*(_found|soak)$)", "")
        tests = rf"({tests}) - test(/(_found|soak)$/)"
        run = ["cargo", "nextest", "run", "--locked", "--lib", "--test=it", "--run-ignored=all", "--fail-fast", "-E", tests]
        run = subprocess.run(run, cwd=ONE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        failed = re.search(r"(?:FAIL|TIMEOUT|SIG\w+) \[.*?\].*? (\S+)$", run.stderr, re.MULTILINE)
        return (failed[1] if failed else "a test") if run.returncode else None
    finally:
        path.write_bytes(before)


sys.exit(main())
