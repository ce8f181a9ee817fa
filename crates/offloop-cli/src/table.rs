//! Tables, fitted to a width.

use crate::text;

/// The weight of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Dim,
    Strong,
    Warning,
    Bad,
}

/// A cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) tone: Tone,
    /// The value by which a column of numbers is sorted.
    number: Option<f64>,
    /// The tones of the characters, for a strip.
    pub(crate) tones: Vec<Tone>,
}

impl Cell {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Returns a cell that is sorted by a number. Without one it is empty, and comes last.
    pub(crate) fn number(number: Option<f64>, format: impl FnOnce(f64) -> String) -> Self {
        Self { text: number.map(format).unwrap_or_default(), number, ..Self::default() }
    }

    /// Returns a cell with one value in each character.
    pub(crate) fn strip(characters: impl IntoIterator<Item = (char, Tone)>) -> Self {
        let (text, tones) = characters.into_iter().unzip();
        Self { text, tones, ..Self::default() }
    }

    pub(crate) fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    /// Gives the cell this tone if the condition holds.
    pub(crate) fn toned_if(self, condition: bool, tone: Tone) -> Self {
        if condition { self.toned(tone) } else { self }
    }

    pub(crate) fn sorted_by(self, number: f64) -> Self {
        Self { number: Some(number), ..self }
    }

    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        match (self.number, other.number) {
            (Some(one), Some(two)) => one.total_cmp(&two),
            (Some(_), None) => std::cmp::Ordering::Greater,
            (None, Some(_)) => std::cmp::Ordering::Less,
            (None, None) => self.text.to_lowercase().cmp(&other.text.to_lowercase()),
        }
    }
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    /// The order in which columns give way where there is no room: the highest first.
    rank: u8,
}

/// The kind of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Stands at the left. Where there is little room, the end is cut.
    Text,
    /// Stands at the right, and is never cut.
    Number,
    /// Stands at the left, and is never cut.
    Bar,
    /// A plot, whose oldest values are cut.
    Strip,
}

impl Column {
    pub(crate) const fn text(title: &'static str, rank: u8) -> Self {
        Self { title, kind: Kind::Text, rank }
    }

    pub(crate) const fn number(title: &'static str, rank: u8) -> Self {
        Self { title, kind: Kind::Number, rank }
    }

    pub(crate) const fn bar(title: &'static str, rank: u8) -> Self {
        Self { title, kind: Kind::Bar, rank }
    }

    pub(crate) const fn strip(rank: u8) -> Self {
        Self { title: "", kind: Kind::Strip, rank }
    }
}

/// A job, as the routes name it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct JobName {
    pub(crate) pid: u32,
    pub(crate) id: u64,
    /// The job in words, to ask whether it shall be cancelled.
    pub(crate) words: String,
    /// Set if the program allows to cancel it.
    pub(crate) may_cancel: bool,
}

/// A row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// Names the row in later tables too.
    pub(crate) key: String,
    pub(crate) cells: Vec<Cell>,
    /// More about the row, in lines.
    pub(crate) detail: Vec<String>,
    pub(crate) job: Option<JobName>,
    /// The series that is shown below the table while this row is selected.
    pub(crate) series: Option<crate::history::Key>,
}

impl Row {
    /// Returns whether any cell holds the text, which is in lower case.
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.cells.iter().any(|cell| cell.text.to_lowercase().contains(text))
    }
}

/// A table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
    /// The sentence that stands for no rows.
    pub(crate) empty: &'static str,
}

/// The order of a table: the column, and whether its largest value comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) column: usize,
    pub(crate) descends: bool,
}

impl Table {
    pub(crate) fn sort(&mut self, order: Order) {
        self.rows.sort_by(|one, two| {
            let (Some(one), Some(two)) = (one.cells.get(order.column), two.cells.get(order.column)) else {
                return std::cmp::Ordering::Equal;
            };
            if order.descends { two.compare(one) } else { one.compare(two) }
        });
    }

    /// Chooses the columns that fit into a width, and their widths.
    ///
    /// A column in which nothing stands is left out. Columns of text are made narrower before others are left out.
    pub(crate) fn fit(&self, columns: usize) -> Vec<(usize, usize)> {
        const NARROW: usize = 12;
        let whole = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(index));
            let widest = cells.map(|cell| text::width(&cell.text)).max().unwrap_or(0);
            if widest == 0 && !self.rows.is_empty() { 0 } else { widest.max(self.columns[index].title.len()) }
        };
        // For each column that is shown: its number, the least width, and the wanted one.
        let mut shown: Vec<(usize, usize, usize)> = (0..self.columns.len())
            .map(|index| (index, whole(index)))
            .filter(|(_, whole)| *whole > 0)
            .map(|(index, whole)| {
                let can_shrink = matches!(self.columns[index].kind, Kind::Text | Kind::Strip);
                let least = if can_shrink { whole.min(NARROW) } else { whole };
                (index, least, whole)
            })
            .collect();
        let needed = |shown: &[(usize, usize, usize)]| {
            shown.iter().map(|(_, least, _)| least + GAP).sum::<usize>().saturating_sub(GAP)
        };
        while needed(&shown) > columns && shown.len() > 1 {
            let last =
                shown.iter().enumerate().max_by_key(|(_, (index, ..))| (self.columns[*index].rank, *index));
            let Some((last, _)) = last else { break };
            shown.remove(last);
        }
        let mut rest = columns.saturating_sub(needed(&shown));
        let mut ranked: Vec<_> = (0..shown.len()).collect();
        ranked.sort_by_key(|place| self.columns[shown[*place].0].rank);
        for place in ranked {
            let (_, least, whole) = &mut shown[place];
            let more = (*whole - *least).min(rest);
            *least += more;
            rest -= more;
        }
        shown.into_iter().map(|(index, least, _)| (index, least.min(columns))).collect()
    }
}

/// The columns between two cells.
pub(crate) const GAP: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let columns = vec![
            Column::text("NAME", 0),
            Column::number("TIME", 1),
            Column::text("NOTE", 3),
            Column::text("MORE", 2),
        ];
        let row = |name: &str, time: f64, note: &str| Row {
            cells: vec![
                Cell::text(name),
                Cell::number(Some(time), text::duration),
                Cell::text(note),
                Cell::text(""),
            ],
            ..Row::default()
        };
        let rows = vec![row("walk_a_document", 2.0, "a note"), row("b", 10.0, ""), row("c", 0.5, "")];
        Table { title: "t", columns, rows, empty: "" }
    }

    #[test]
    fn columns_are_narrowed_and_then_left_out() {
        assert_eq!(table().fit(80), [(0, 15), (1, 5), (2, 6)]);
        assert_eq!(table().fit(29), [(0, 14), (1, 5), (2, 6)]);
        assert_eq!(table().fit(20), [(0, 13), (1, 5)]);
        assert_eq!(table().fit(8), [(0, 8)]);
    }

    #[test]
    fn numbers_are_sorted_as_numbers() {
        let mut table = table();
        table.sort(Order { column: 1, descends: true });
        let names: Vec<_> = table.rows.iter().map(|row| row.cells[0].text.as_str()).collect();
        assert_eq!(names, ["b", "walk_a_document", "c"]);
    }
}
