//! `cargo xtask bench`: runs a bench and keeps its table in the documentation.

use std::error::Error;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, ValueEnum};

use crate::host;

const PAGE: &str = "docs/benchmarks.md";

#[derive(Args)]
pub(crate) struct Arguments {
    /// Which bench.
    bench: Bench,
    /// A smoke run: seconds instead of minutes, and figures to distrust.
    #[arg(long)]
    quick: bool,
    /// Put the table into docs/benchmarks.md.
    #[arg(long)]
    write: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// The thread pools beside `spawn_blocking`, `blocking` and `tokio-rayon`.
    Threads,
    /// The process pool beside `procspawn`, bare pipes and sockets, and a copy into shared memory.
    Processes,
}

impl Bench {
    /// The name of the bench target, and of its table in the page.
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        }
    }

    /// The thread pools are benched without the process pool, which they don't need.
    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Threads => &["--no-default-features"],
            Self::Processes => &[],
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let name = arguments.bench.name();
    let mut words = vec!["bench", "-p", "offloop"];
    words.extend(arguments.bench.features());
    words.extend(["--bench", name]);
    if arguments.quick {
        words.extend(["--", "--quick"]);
    }
    let output = Command::new("cargo").args(&words).stderr(Stdio::inherit()).output()?;
    let printed = String::from_utf8(output.stdout)?;
    print!("{printed}");
    if !output.status.success() {
        return Ok(ExitCode::FAILURE);
    }
    if arguments.write {
        let table: String = printed.lines().filter(|line| line.starts_with('|')).map(with_newline).collect();
        if table.is_empty() {
            return Err(format!("the bench `{name}` printed no table").into());
        }
        let section = format!(
            "```text\ncargo {}\n```\n\n{}; {}; {}.\n\n{table}",
            words.join(" "),
            host::date(),
            host::processor(),
            host::compiler(),
        );
        let page = fs::read_to_string(PAGE)?;
        fs::write(PAGE, replace_section(&page, name, &section)?)?;
        println!("\nwritten to {PAGE}");
    }
    Ok(ExitCode::SUCCESS)
}

fn with_newline(line: &str) -> String {
    format!("{line}\n")
}

/// `page` with new text between the two markers of a section.
fn replace_section(page: &str, name: &str, text: &str) -> Result<String, String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let parts = page
        .split_once(&begin)
        .and_then(|(before, rest)| rest.split_once(&end).map(|(_, after)| (before, after)));
    let (before, after) = parts.ok_or_else(|| format!("{PAGE} lacks the markers {begin} and {end}"))?;
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::replace_section;

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let page = "a\n<!-- t:begin -->\nold\n<!-- t:end -->\nb\n";
        let expected = "a\n<!-- t:begin -->\nnew\n<!-- t:end -->\nb\n";
        assert_eq!(replace_section(page, "t", "new\n").as_deref(), Ok(expected));
    }

    #[test]
    fn a_page_without_markers_is_refused() {
        assert!(replace_section("a\n<!-- t:begin -->\n", "t", "new\n").is_err());
    }
}
