#[offloop::task]
fn both<'a: 'b, 'b>(x: &'a str, y: &'b str) -> usize {
    x.len() + y.len()
}

#[offloop::task]
fn longer<'a, 'b>(x: &'a str, y: &'b str) -> usize
where
    'a: 'b,
{
    x.len() + y.len()
}

fn main() {}
