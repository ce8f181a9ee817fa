#[offloop::task]
fn largest<T: Ord>(items: Vec<T>) -> Option<T> {
    items.into_iter().max()
}

#[offloop::task]
fn any(items: impl Iterator<Item = u8>) -> usize {
    items.count()
}

fn main() {}
