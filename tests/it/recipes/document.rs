//! The commands of `docs/counting.md`, which print what it says.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::support::client::{end, start};
use crate::support::process::Process;

/// For dozens of commands, while other tests have the processors too.
const LONG: Duration = Duration::from_mins(2);

/// A command, and its output as the document has it.
#[derive(Debug, PartialEq)]
struct Example {
    command: String,
    printed: String,
}

/// The commands in a document's blocks of `console`. One goes on while a quote is open.
fn examples(text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let blocks = text.split("```console\n").skip(1);
    for block in blocks.filter_map(|block| block.split("```").next()) {
        let mut is_open = false;
        for line in block.lines() {
            let begun = line.strip_prefix("$ ").filter(|_| !is_open);
            if let Some(command) = begun {
                examples.push(Example {
                    command: String::new(),
                    printed: String::new(),
                });
                is_open = true;
                push(&mut examples, command, &mut is_open);
            } else {
                push(&mut examples, line, &mut is_open);
            }
        }
    }
    examples
}

/// Adds a line to the last command or, if that is complete, to its output.
fn push(examples: &mut [Example], line: &str, is_open: &mut bool) {
    let last = examples.last_mut().expect("a block begins with a command");
    if *is_open {
        last.command += line;
        last.command.push('\n');
        *is_open = !last.command.matches('\'').count().is_multiple_of(2);
    } else {
        last.printed += line;
        last.printed.push('\n');
    }
}

/// A text whose lines are wrapped anyhow.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An output without equal answers in a row: a stream may acknowledge a message when it begins, and again when the message is
/// repeated, or both in one answer.
fn without_repeats(printed: &str) -> String {
    let answers = unwrapped(printed).replace("} {", "}\n{");
    let mut answers: Vec<_> = answers.lines().collect();
    answers.dedup();
    answers.join(" ")
}

/// All commands are of one shell, which writes what each prints to a file of its own.
fn script(examples: &[Example], address: &str, folder: &Path) -> String {
    let commands = examples.iter().enumerate().map(|(number, example)| {
        let command = example.command.replace("localhost:8080", address);
        let file = output(folder, number);
        format!("{{ {command}}} >{} 2>&1\n", file.display())
    });
    commands.collect()
}

fn output(folder: &Path, number: usize) -> PathBuf {
    folder.join(number.to_string())
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn commands_print_what_the_document_says() {
    let text = fs::read_to_string("docs/counting.md").expect("a document");
    let examples = examples(&text);
    let server = Process::serve(&[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [tools].into_iter().chain(env::split_paths(&path));
    let mut shell = Command::new("sh");
    shell.env("PATH", env::join_paths(path).expect("folders"));
    let script = script(&examples, &server.address, folder.path());
    let ended = timeout(LONG, end(start(&mut shell, script))).await;
    let ended = ended.expect("this should have ended long ago");
    assert_eq!(ended.err, "");
    for (number, example) in examples.iter().enumerate() {
        let printed = fs::read_to_string(output(folder.path(), number)).expect("an output");
        assert_eq!(
            without_repeats(&printed),
            without_repeats(&example.printed),
            "{}",
            example.command
        );
    }
    let calls = examples
        .iter()
        .filter(|example| !example.printed.is_empty());
    assert!(calls.count() > 15, "few commands were found");
}

/// The test itself sees what it is there to see.
#[test]
fn commands_are_found() {
    let text = "a\n```console\n$ x=1\n$ f 'a\n  b' c\n1\n2\n```\n$ no\n```console\n$ g\n```\n";
    let example = |command: &str, printed: &str| Example {
        command: command.into(),
        printed: printed.into(),
    };
    let expected = [
        example("x=1\n", ""),
        example("f 'a\n  b' c\n", "1\n2\n"),
        example("g\n", ""),
    ];
    assert_eq!(examples(text), expected);
}
