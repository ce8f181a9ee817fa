//! The position in the source of an instruction, from the table that a code object has for it.

/// A range of the source. Lines count from 1, columns count bytes from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: i32,
    /// The last line, the first column and the column after the last one, if they are known.
    pub(super) range: Option<(i32, i32, i32)>,
}

/// The bytes of a table, which may be garbage: then the position is wrong, or there is none.
struct Table<'a>(std::slice::Iter<'a, u8>);

impl Table<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.next().copied()
    }

    /// Reads a number of which each byte has six bits, the lowest first, and a bit if there are more.
    fn number(&mut self) -> Option<i32> {
        let mut number = 0_u32;
        for shift in (0..=30).step_by(6) {
            let byte = self.byte()?;
            number |= u32::from(byte & 0x3f).checked_shl(shift)?;
            if byte & 0x40 == 0 {
                return i32::try_from(number).ok();
            }
        }
        None
    }

    /// Reads a number whose lowest bit is the sign.
    fn signed(&mut self) -> Option<i32> {
        let number = self.number()?;
        Some(if number & 1 == 1 { -(number >> 1) } else { number >> 1 })
    }
}

/// Returns the position of the instruction that contains a code unit. `None` if it has none, or if the table does not
/// reach there.
pub(super) fn position(table: &[u8], first_line: i32, unit: usize) -> Option<Position> {
    let mut table = Table(table.iter());
    let mut line = first_line;
    let mut end = 0;
    loop {
        let head = table.byte().filter(|head| head & 0x80 != 0)?;
        end += usize::from(head & 7) + 1;
        let form = (head >> 3) & 15;
        let range = match form {
            // The line is that of the entry before.
            0..=9 => {
                let columns = table.byte()?;
                let begin = (i32::from(form) << 3) | i32::from(columns >> 4 & 7);
                Some((0, begin, begin + i32::from(columns & 15)))
            }
            10..=12 => {
                line = line.checked_add(i32::from(form) - 10)?;
                Some((0, i32::from(table.byte()?), i32::from(table.byte()?)))
            }
            13 => {
                line = line.checked_add(table.signed()?)?;
                None
            }
            14 => {
                line = line.checked_add(table.signed()?)?;
                let lines = table.number()?;
                // Columns are larger by one here: zero means that it is not known.
                let (begin, after) = (table.number()? - 1, table.number()? - 1);
                (begin >= 0 && after >= 0).then_some((lines, begin, after))
            }
            _ => {
                if unit < end {
                    return None;
                }
                continue;
            }
        };
        if unit < end {
            let range =
                range.and_then(|(lines, begin, after)| Some((line.checked_add(lines)?, begin, after)));
            return Some(Position { line, range });
        }
    }
}
