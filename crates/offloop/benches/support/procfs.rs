//! Values that the kernel publishes in `/proc`.

/// Returns the number after `name`, which includes its colon, in a file of `/proc`. Returns `None` if there is none.
pub(crate) fn field(file: &str, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
