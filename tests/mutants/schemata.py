"""Puts all mutants that cargo-mutants makes of some files into one program, which runs as the one that MUTANT_ON names.

It takes minutes to build sumd with its tests, and seconds to run the tests that reach a mutant. A program that holds all mutants
is built once: R. Untch, A. Offutt, M. Harrold, "Mutation analysis using mutant schemata", ISSTA 1993.
"""

import json
import re
import subprocess
from collections import defaultdict

import tree_sitter
import tree_sitter_rust

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))

# What is fixed when the program is built.
CONSTANT = {"const_item", "static_item", "enum_variant", "array_type", "array_expression", "const_block", "type_arguments"}

# Which mutant a process is, and which ones it has reached: each is written once, at once, for processes of tests are killed.
MODULE = """
use std::fs::File;
use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ON: LazyLock<Option<usize>> =
    LazyLock::new(|| std::env::var("MUTANT_ON").ok().map(|on| on.parse().expect("a number")));
static REACHED: LazyLock<Option<(File, Vec<AtomicBool>)>> = LazyLock::new(|| {
    let path = std::env::var("MUTANT_REACHED").ok()?;
    let file = File::options().create(true).append(true).open(path).expect("a file");
    Some((file, (0..COUNT).map(|_| AtomicBool::new(false)).collect()))
});

#[inline]
pub fn on(number: usize) -> bool {
    if let Some((file, reached)) = &*REACHED
        && !reached[number].swap(true, Ordering::Relaxed)
    {
        let mut file = file;
        let _ = file.write_all(format!("{number}\\n").as_bytes());
    }
    *ON == Some(number)
}
"""


class Source:
    """A file, and the edits that put mutants into it. A mutant is known by its number."""

    def __init__(self, path):
        self.text = path.read_bytes()
        self.root = PARSER.parse(self.text).root_node
        self.lines = self.text.splitlines(keepends=True)
        # Each by the node that it changes: what stands in an expression's place, what a function begins with, and of a match arm
        # that it is not taken, or another guard.
        self.places = defaultdict(list)
        self.bodies = defaultdict(list)
        self.arms = defaultdict(list)
        self.guards = defaultdict(list)

    def add(self, number, mutant):
        """Puts a mutant in; `False` if a running program cannot be changed into it."""
        start, end = self._span(mutant)
        new = mutant["replacement"]
        node = self.root.descendant_for_byte_range(start, max(start, end - 1))
        if self._is_constant(node):
            return False
        match mutant["genre"]:
            case "FnValue":
                # All that an `impl Trait` returns is of one type.
                if re.search(r"\bimpl\b", mutant["function"]["return_type"]):
                    return False
                body = _around(node, {"function_item"}).child_by_field_name("body")
                self.bodies[body.id].append((number, new))
            case "BinaryOperator":
                whole = _around(node, {"binary_expression", "compound_assignment_expr", "let_chain"})
                # What is bound in a chain is used behind it.
                if whole is None or whole.type == "let_chain":
                    return False
                left, right = (self._source(whole.child_by_field_name(side)) for side in ("left", "right"))
                if whole.type == "binary_expression":
                    left = f"({left})"
                self.places[whole.id].append((number, f"{left} {new} ({right})"))
            case "UnaryOperator":
                whole = _around(node, {"unary_expression"})
                self.places[whole.id].append((number, self.text[end : whole.end_byte].decode()))
            case "MatchArm":
                pattern = _around(node, {"match_arm"}).child_by_field_name("pattern")
                self.arms[pattern.id].append(number)
            case "MatchArmGuard":
                pattern = _around(node, {"match_arm"}).child_by_field_name("pattern")
                if pattern.child_by_field_name("condition").type in ("let_chain", "let_condition"):
                    return False
                self.guards[pattern.id].append((number, new))
            case "StructField":
                whole = _around(node, {"struct_expression"})
                rest = self.text[end : whole.end_byte].decode().lstrip().removeprefix(",")
                self.places[whole.id].append((number, self.text[whole.start_byte : start].decode() + rest))
            case _:
                return False
        return True

    def changed(self, mutant):
        """The file with this mutant and no other."""
        start, end = self._span(mutant)
        return self.text[:start] + mutant["replacement"].encode() + self.text[end:]

    def render(self, some):
        """The file with some of the mutants."""
        before, after = self.text[: self.root.start_byte], self.text[self.root.end_byte :]
        return before.decode() + self._render(self.root, some) + after.decode()

    def _render(self, node, some):
        return _choose(self.places[node.id], some, self._inside(node, some))

    def _inside(self, node, some):
        if node.type == "match_pattern" and (self.arms[node.id] or self.guards[node.id]):
            return self._pattern(node, some)
        pieces, at = [], node.start_byte
        for child in node.children:
            pieces += [self.text[at : child.start_byte].decode(), self._render(child, some)]
            at = child.end_byte
            if child.type == "{":
                for number, value in self.bodies[node.id]:
                    if number in some:
                        pieces.append(f" if crate::mutant::on({number}) {{ return {_mark(number, value)}; }} ")
        return "".join(pieces) + self.text[at : node.end_byte].decode()

    def _pattern(self, node, some):
        guard = [f"!crate::mutant::on({number}){_mark(number, '')}" for number in self.arms[node.id] if number in some]
        condition = node.child_by_field_name("condition")
        if condition is not None:
            text = _choose(self.guards[node.id], some, self._render(condition, some))
            is_chain = condition.type in ("let_chain", "let_condition")
            guard.append(text if is_chain or not guard else f"({text})")
        pattern = self.text[node.start_byte : node.children[0].end_byte].decode()
        return f"{pattern} if {' && '.join(guard)}" if guard else pattern

    def _span(self, mutant):
        return (self._offset(mutant["span"][at]) for at in ("start", "end"))

    def _offset(self, place):
        line = place["line"] - 1
        before = self.lines[line].decode()[: place["column"] - 1]
        return sum(map(len, self.lines[:line])) + len(before.encode())

    def _source(self, node):
        return self.text[node.start_byte : node.end_byte].decode()

    def _is_constant(self, node):
        while node:
            if node.type in CONSTANT:
                return True
            if node.type == "function_item":
                head = self.text[node.start_byte : node.child_by_field_name("body").start_byte]
                if re.search(rb"\bconst (unsafe )?fn\b", head):
                    return True
            node = node.parent
        return False


def _around(node, kinds):
    """The smallest node of these kinds that this one is in."""
    while node and node.type not in kinds:
        node = node.parent
    return node


def _choose(others, some, text):
    """An expression, unless the process is one of some mutants, that have another one in its place."""
    cases = [f"if crate::mutant::on({number}) {{{_mark(number, other)}}} else " for number, other in others if number in some]
    return f"({''.join(cases)}{{{text}}})" if cases else text


def _mark(number, text):
    """What an error of the compiler is a mutant's by."""
    return f"/*<{number}*/{text}/*{number}>*/"


def instrument(tree, mutants, environment):
    """Rewrites the sources of a tree. Gives of each mutant whether it is `in`, does not compile (`unviable`), or is `apart`: in a
    constant, for one, which no running program can change."""
    sources, kinds = {}, []
    for number, mutant in enumerate(mutants):
        path = tree / mutant["file"]
        if path not in sources:
            sources[path] = Source(path)
        kinds.append("in" if sources[path].add(number, mutant) else "apart")
    root = tree / "src/lib.rs"
    root.write_text(root.read_text() + "\n#[doc(hidden)]\n#[allow(missing_docs)]\npub mod mutant;\n")
    (tree / "src/mutant.rs").write_text(f"{MODULE}\nconst COUNT: usize = {len(mutants)};\n")
    while True:
        some = {number for number, kind in enumerate(kinds) if kind == "in"}
        for path, source in sources.items():
            path.write_text(source.render(some))
        errors = _errors(tree, environment)
        if not errors:
            return kinds
        refused = {number for error in errors if (number := _mutant_of(tree, error)) is not None}
        if not refused:
            raise SystemExit("the compiler refuses what is no mutant's:\n" + "".join(error["rendered"] for error in errors))
        for number in refused:
            # Of others it may be the way that they are put in.
            kinds[number] = "unviable" if mutants[number]["genre"] == "FnValue" else "apart"


def _errors(tree, environment):
    check = ["cargo", "check", "--locked", "--lib", "--message-format=json"]
    lines = subprocess.run(check, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    lines = lines.stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    messages = [message["message"] for message in messages if message["reason"] == "compiler-message"]
    return [message for message in messages if message["level"].startswith("error")]


def _mutant_of(tree, error):
    """The mutant that an error is about: the innermost one around the first of its places that is in any."""
    for span in sorted(error["spans"], key=lambda span: not span["is_primary"]):
        path = tree / span["file_name"]
        if not path.is_file():
            continue
        text, found = path.read_bytes(), []
        for opening in re.finditer(rb"/\*<(\d+)\*/", text[: span["byte_end"] + 16]):
            closing = text.find(b"/*%s>*/" % opening[1], opening.end())
            # The marks belong to it, and so does the block that they are in.
            if opening.start() <= span["byte_end"] and span["byte_start"] <= closing + 16:
                found.append((closing - opening.end(), int(opening[1])))
        if found:
            return min(found)[1]
    return None
