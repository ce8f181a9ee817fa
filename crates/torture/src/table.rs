//! The table of what became of the jobs.

use std::collections::BTreeMap;

use crate::ledger::{Column, Totals};
use crate::plan::Kind;

const FIRST: usize = 16;

/// The jobs by kind and verdict; columns without a job are left out.
pub(crate) fn render(totals: &Totals) -> String {
    let mut sums: BTreeMap<Column, usize> = BTreeMap::new();
    for ((_, column), count) in &totals.jobs {
        *sums.entry(*column).or_default() += count;
    }
    let columns: Vec<_> = Column::ALL.into_iter().filter(|(column, _)| sums.contains_key(column)).collect();
    let line = |name: &str, count: &dyn Fn(Column) -> usize| {
        let cells = columns.iter().map(|(column, title)| match count(*column) {
            0 => format!(" {:>1$}", "", width(title)),
            count => format!(" {count:>0$}", width(title)),
        });
        let all: usize = columns.iter().map(|(column, _)| count(*column)).sum();
        format!("{name:<FIRST$}{} {all:>8}\n", cells.collect::<String>())
    };
    let titles = columns.iter().map(|(_, title)| format!(" {title:>0$}", width(title)));
    let mut table = format!("{:<FIRST$}{} {:>8}\n", "", titles.collect::<String>(), "all");
    for (kind, _) in Kind::ALL {
        table +=
            &line(&format!("{kind:?}"), &|column| totals.jobs.get(&(kind, column)).copied().unwrap_or(0));
    }
    table += &line("all", &|column| sums.get(&column).copied().unwrap_or(0));
    table
}

fn width(title: &str) -> usize {
    title.len().max(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_summed_up() {
        let jobs =
            [((Kind::Nap, Column::Ok), 3), ((Kind::Exit, Column::Died), 2), ((Kind::Nap, Column::Shed), 1)];
        let table = render(&Totals { jobs: jobs.into(), ..Totals::default() });
        let row = |name: &str| -> Vec<usize> {
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().skip(1).map(|count| count.parse().unwrap()).collect()
        };
        assert_eq!(row("Nap"), [3, 1, 4]);
        assert_eq!(row("all"), [3, 2, 1, 6]);
        assert!(!table.contains("cancelled"));
    }
}
