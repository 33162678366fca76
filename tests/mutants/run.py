"""Changes the code at random, one place at a time (cargo-mutants), and tells which changes no test sees.

  MUTANTS_DIR    what is changed: files or folders under src, with a blank between them
  MUTANTS_COUNT  how many changes are tried; `all` for all that there are
  MUTANTS_SEED   which ones: the same seed picks the same ones of the same code

All mutants are in one program (schemata.py). Of the tests those are run that reach a mutant, the quick ones first, until one
fails. What cannot be in that program, such as constants, is built by itself. A mutant that makes a test hang counts as caught.

What is known is in target/mutants/known.json: a run that was broken off, or has another seed, goes on from there until the code or
MUTANTS_DIR changes. src/main.rs cannot be chosen, which is no part of the library. Exits with 1 if a mutant was missed.
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
# The mutants and the tests of this code, and what has become of each mutant.
CODE, KNOWN = OUT / "code.json", OUT / "known.json"
# Nobody looks at the backtrace of a mutant, and builds are faster without what it takes.
ENVIRONMENT = {
    **os.environ,
    "CARGO_PROFILE_DEV_DEBUG": "0",
    "RUST_BACKTRACE": "0",
    "SUMD_TEST_ETCD": str(ROOT / ".tools/bin/etcd"),
}
CORE = "src/model src/etcd src/etcd.rs src/lane src/lane.rs src/maintenance src/maintenance.rs src/store src/store.rs src/counters/record src/counters/record.rs src/counters/copies.rs src/counters/refusal.rs src/counters/execute.rs src/api/peer src/api/peer.rs src/api/record.rs"
# Tests of servers whose outcome does not hang on chance, without those that look for mutants themselves or need clients in Go.
SERVERS = (
    r"^(calls|cluster|counters|crash|damage|etcd|formats|hostile|limits|listeners|logging|output|process|shutdown|simulation"
    r"|stores|transfer)::"
)
# The properties for fuzzing are tests themselves.
FUZZING = ["--exclude", "fuzzing.rs"]
UNUSED = r"^simulation::\w+_found$|::soak$|^server::tests::interop::"
# At once: tests of servers wait more than they work.
PROCESSES = (os.cpu_count() or 1) + 1
# Tests of up to so many seconds are run by one process, and of slower ones so many.
QUICK = {"lib": 0.15, "it": 0.45}
SLOW = {"lib": 3, "it": 10}
# What becomes of a mutant that no test catches.
MISSED, UNVIABLE = "MISSED", "does not compile"


def main():
    seed = int(os.environ.get("MUTANTS_SEED") or random.randrange(1 << 31))
    count = os.environ.get("MUTANTS_COUNT") or "20"
    mutants, tests = load()
    known = json.loads(KNOWN.read_text())
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
        name = mutant["name"]
        if name in known:
            return
        if mutant["kind"] == "in":
            became = hunt(number, reaching[number])
        else:
            became = hunt_alone(mutant, tests)
        with lock:
            known[name] = became
            print(f"{became}: {name}", flush=True)
            write(KNOWN, known)

    left = [number for number in sample if mutants[number]["kind"] != "unviable"]
    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(look, [number for number in left if mutants[number]["kind"] == "in"]))
    # Each is a build, which all processors take part in.
    for number in left:
        look(number)

    became = [known[mutants[number]["name"]] for number in left]
    viable = len(became) - became.count(UNVIABLE)
    print(f"\nMUTANTS_SEED={seed}: {viable - became.count(MISSED)} of {viable} viable mutants were caught;", end=" ")
    print(f"{len(sample) - viable} did not compile")
    for number, of_it in zip(left, became):
        if of_it == MISSED:
            print(f"  missed: {mutants[number]['name']}")
    return MISSED in became


def load():
    """The mutants of this code, and the tests: made anew if the code is another."""
    OUT.mkdir(parents=True, exist_ok=True)
    dirs = os.environ.get("MUTANTS_DIR") or CORE
    digest = hashlib.sha256(dirs.encode())
    for path in sorted(files()):
        digest.update(path.encode() + b"\0" + (ROOT / path).read_bytes())
    # A run that was ended may have left a mutant in it.
    copy(ONE)
    if CODE.exists():
        code = json.loads(CODE.read_text())
        if code["digest"] == digest.hexdigest():
            return code["mutants"], code["tests"]
    CODE.unlink(missing_ok=True)
    copy(ALL)
    chosen = [f"--file={path}/**" if (ROOT / path).is_dir() else f"--file={path}" for path in dirs.split()]
    listed = subprocess.run(["cargo", "mutants", "--list", "--json", *FUZZING, *chosen], cwd=ONE, stdout=subprocess.PIPE, check=True)
    mutants = json.loads(listed.stdout)
    print(f"building a program of {len(mutants)} mutants", flush=True)
    environment = {**ENVIRONMENT, "CARGO_TARGET_DIR": str(OUT / "build")}
    for mutant, kind in zip(mutants, schemata.instrument(ALL, mutants, environment)):
        mutant["kind"] = kind
    tests = reached(build(environment))
    write(KNOWN, {})
    write(CODE, {"digest": digest.hexdigest(), "mutants": mutants, "tests": tests})
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
        names = [name for name in names if (kind == "lib" or re.search(SERVERS, name)) and not re.search(UNUSED, name)]
        tests += [{"kind": kind, "program": program, "name": name} for name in names]
    print(f"running {len(tests)} tests without a mutant", flush=True)

    def look(numbered):
        number, test = numbered
        notes = OUT / f"reached.{number}"
        notes.unlink(missing_ok=True)
        begun = time.monotonic()
        if failure([test], 600, MUTANT_REACHED=str(notes)):
            print(f"not used, since it fails without a mutant: {test['name']}", flush=True)
            return None
        took = round(time.monotonic() - begun, 2)
        numbers = sorted(map(int, notes.read_text().split())) if notes.exists() else []
        notes.unlink(missing_ok=True)
        return {**test, "seconds": took, "reaches": numbers}

    with ThreadPoolExecutor(PROCESSES) as pool:
        return [test for test in pool.map(look, enumerate(tests)) if test]


def hunt(number, tests):
    """The test that fails with a mutant."""
    tests = sorted(tests, key=lambda test: test["seconds"])
    groups = []
    for kind in ("lib", "it"):
        mine = [test for test in tests if test["kind"] == kind]
        slow = [test for test in mine if test["seconds"] > QUICK[kind]]
        groups.append([test for test in mine if test["seconds"] <= QUICK[kind]])
        groups += [slow[at : at + SLOW[kind]] for at in range(0, len(slow), SLOW[kind])]
    on = {"MUTANT_ON": str(number)}
    for group in sorted(filter(None, groups), key=lambda group: group[-1]["seconds"]):
        failed = failure(group, patience(group), **on)
        if not failed:
            continue
        # Again by themselves, lest a busy machine is taken for a mutant: first the one that has failed.
        for test in sorted(group, key=lambda test: test["name"] != failed):
            if failure([test], patience([test]), **on):
                return test["name"]
    return MISSED


def patience(tests):
    return 30 + 6 * sum(test["seconds"] for test in tests)


def failure(tests, limit, **environment):
    """Runs tests of one program up to the first that fails: gives its name, or `?` if the program ends, or is ended, without a
    word of it; `None` if all pass in time."""
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
            if failed := re.match(r"test (\S+)( - should panic)? \.\.\. FAILED$", line):
                return failed[1]
            if line.startswith("test result: ok"):
                return None
        return "?"
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


def hunt_alone(mutant, tests):
    """Builds a mutant by itself, and runs all tests that pass without one."""
    environment = {**ENVIRONMENT, "CARGO_TARGET_DIR": str(OUT / "build-one")}
    path = ONE / mutant["file"]
    source = schemata.Source(path)
    try:
        path.write_bytes(source.changed(mutant))
        check = ["cargo", "check", "--quiet", "--locked", "--lib"]
        if subprocess.run(check, cwd=ONE, env=environment, stderr=subprocess.DEVNULL).returncode:
            return UNVIABLE
        run = ["cargo", "nextest", "run", "--locked", "--lib", "--test=it", "--run-ignored=all", "--fail-fast", "--retries=1"]
        names = "|".join(re.escape(test["name"]) for test in tests)
        run += ["--filterset", f"test(/^({names})$/)"]
        ran = subprocess.run(run, cwd=ONE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        # As nextest has it: all pass, some tests have failed, or they do not compile.
        match ran.returncode:
            case 0:
                return MISSED
            case 100:
                failed = re.search(r"(?:FAIL|TIMEOUT|SIG\w+) \[.*\] \S+ \S* ?(\S+)$", ran.stderr, re.MULTILINE)
                return failed[1] if failed else "a test"
            case 101:
                return UNVIABLE
        raise SystemExit(ran.stderr)
    finally:
        path.write_bytes(source.text)


sys.exit(main())
