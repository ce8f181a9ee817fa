fn unmarked() -> u64 {
    42
}

fn main() {
    let pool = offloop::ProcessPool::builder().build().unwrap();
    offloop::run_in_executor(&pool, unmarked).detach();
}
