//! Texts and values, made fit to be printed.
//!
//! Whatever a program sends may hold characters that steer a terminal, or that make a line look like another one.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Returns the text in one line, without characters that are not printed in a place of their own, and no longer than so
/// many characters.
pub(crate) fn clean(text: &str, most: usize) -> String {
    text.chars().filter_map(printable).take(most).collect()
}

/// Returns the printable character to write in place of this one, or `None` to leave it out.
///
/// Control characters, marks that combine with others, and those that change the direction of writing are left out.
fn printable(character: char) -> Option<char> {
    match character {
        '\n' | '\r' | '\t' => Some(' '),
        '\u{ad}' | '\u{2028}' | '\u{2029}' => None,
        _ => (character.width().unwrap_or(0) > 0).then_some(character),
    }
}

/// Returns the lines of a text, each of them clean.
pub(crate) fn clean_lines(text: &str, most_lines: usize, most: usize) -> Vec<String> {
    text.lines().take(most_lines).map(|line| clean(line, most)).collect()
}

/// Returns the text with each character replaced that is not in ASCII.
pub(crate) fn to_ascii(text: &str) -> String {
    text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect()
}

/// Returns the number of columns that the text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// Returns the text cut to so many columns, with a mark at the end if something is missing.
pub(crate) fn cut(text: &str, columns: usize, mark: char) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut result = String::new();
    let mut used = 0;
    for character in text.chars() {
        let next = character.width().unwrap_or(0);
        if used + next + 1 > columns {
            break;
        }
        used += next;
        result.push(character);
    }
    if columns > 0 {
        result.push(mark);
    }
    result
}

/// Returns the text in lines of at most so many columns, broken at spaces where there are any.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_inclusive(' ') {
        if !line.trim().is_empty() && width(&line) + width(word.trim_end()) > columns {
            lines.push(std::mem::take(&mut line));
        }
        for character in word.chars() {
            // A space at the end of a line takes no room.
            if character != ' ' && width(&line) + character.width().unwrap_or(0) > columns {
                lines.push(std::mem::take(&mut line));
            }
            line.push(character);
        }
    }
    lines.push(line);
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Returns a duration in seconds, short: `850us`, `12ms`, `1.25s`, `3m05s`, `2h14m`, `3d04h`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        "-".to_owned()
    } else if seconds == 0.0 {
        "0".to_owned()
    } else if seconds < 0.000_999_5 {
        format!("{:.0}us", (seconds * 1e6).max(1.0))
    } else if seconds < 0.009_995 {
        format!("{:.1}ms", seconds * 1e3)
    } else if seconds < 0.999_5 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 9.995 {
        format!("{seconds:.2}s")
    } else if seconds < 59.95 {
        format!("{seconds:.1}s")
    } else {
        // No duration that makes sense is cut by this.
        let whole = seconds.min(1e11).round() as u64;
        let (days, hours, minutes, rest) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
        if days > 0 {
            format!("{days}d{hours:02}h")
        } else if hours > 0 {
            format!("{hours}h{minutes:02}m")
        } else {
            format!("{minutes}m{rest:02}s")
        }
    }
}

/// Returns a size in bytes, short: `312M`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["", "K", "M", "G", "T", "P"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit.is_empty() || value >= 9.95 { format!("{value:.0}{unit}") } else { format!("{value:.1}{unit}") }
}

/// Returns a count, short: `950`, `12.3k`, `4.5M`.
pub(crate) fn count(count: u64) -> String {
    if count < 10_000 { count.to_string() } else { number(count as f64) }
}

/// Returns a number that is not negative, short: `0`, `0.25`, `12`, `3.4k`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    let (scaled, unit) = match value {
        _ if value < 999.5 => (value, ""),
        _ if value < 999.5e3 => (value / 1e3, "k"),
        _ if value < 999.5e6 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    if scaled == 0.0 {
        "0".to_owned()
    } else if scaled < 0.995 && unit.is_empty() {
        format!("{scaled:.2}")
    } else if scaled < 9.95 {
        format!("{scaled:.1}{unit}")
    } else {
        format!("{scaled:.0}{unit}")
    }
}

/// Returns a share, of which 1 is all, in percent.
pub(crate) fn percent(share: f64) -> String {
    if !share.is_finite() || share < 0.0 {
        "-".to_owned()
    } else if share > 0.0 && share < 0.0995 {
        format!("{:.1}%", share * 100.0)
    } else {
        format!("{:.0}%", share * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_left_out() {
        assert_eq!(clean("a\x1b[31mb\u{9b}2Jc\x07\x7f\r\nd", 100), "a[31mb2Jc  d");
        assert_eq!(clean("x\u{202e}y\u{200b}z\u{feff}\u{ad}", 100), "xyz");
        assert_eq!(clean(&"e\u{301}".repeat(1000), 5), "eeeee");
        assert_eq!(clean("名前", 100), "名前");
        assert_eq!(clean_lines("a\nb\x1bc\nd", 2, 9), ["a", "bc"]);
    }

    #[test]
    fn a_text_is_cut_by_columns() {
        assert_eq!(cut("walk", 4, '~'), "walk");
        assert_eq!(cut("walked", 4, '~'), "wal~");
        assert_eq!(cut("名前は", 4, '~'), "名~");
        assert_eq!(cut("walk", 0, '~'), "");
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("  indented text", 11), ["  indented", "text"]);
    }

    #[test]
    fn values_are_short() {
        let durations =
            [0.0, 0.000_000_1, 0.000_85, 0.001_2, 0.042, 0.999_7, 12.34, 185.0, 8040.0, 273_600.0];
        let expected = ["0", "1us", "850us", "1.2ms", "42ms", "1.00s", "12.3s", "3m05s", "2h14m", "3d04h"];
        assert_eq!(durations.map(duration), expected);
        assert_eq!([f64::NAN, f64::INFINITY, -1.0].map(duration), ["-", "-", "-"]);
        assert_eq!(duration(f64::MAX), "1157407d09h");
        assert_eq!(
            [0, 1023, 5 << 20, 312 << 20, u64::MAX].map(bytes),
            ["0", "1.0K", "5.0M", "312M", "16384P"]
        );
        assert_eq!(
            [0.0, 0.25, 3.456, 12.0, 3400.0, 4.5e6].map(number),
            ["0", "0.25", "3.5", "12", "3.4k", "4.5M"]
        );
        assert_eq!([0.0, 0.005, 0.5, 1.25].map(percent), ["0%", "0.5%", "50%", "125%"]);
        assert_eq!([9999, 12_345].map(count), ["9999", "12k"]);
    }
}
