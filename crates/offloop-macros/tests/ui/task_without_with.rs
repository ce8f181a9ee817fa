#[offloop::task]
fn double(n: u64) -> u64 {
    2 * n
}

fn main() {
    let pool = offloop::ProcessPool::builder().build().unwrap();
    offloop::run_in_executor(&pool, double).detach();
}
