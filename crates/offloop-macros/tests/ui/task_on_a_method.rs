struct Account(u64);

impl Account {
    #[offloop::task]
    fn balance(&self) -> u64 {
        self.0
    }
}

fn main() {}
