fn work(n: u64) -> u64 {
    n
}

fn main() {
    let pool = offloop::ProcessPool::builder().build().unwrap();
    pool.run(work.with(1)).detach();
}
