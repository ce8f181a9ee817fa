fn main() {
    let pool = offloop::ProcessPool::builder().build().unwrap();
    let n = 3;
    offloop::run_in_executor(&pool, move || n + 1).detach();
    pool.run(move || n + 1).detach();
}
