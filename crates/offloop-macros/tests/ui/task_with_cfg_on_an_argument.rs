#[offloop::task]
fn some(x: u8, #[cfg(unix)] y: u8) -> u8 {
    x + y
}

fn main() {}
