//! The names of `arena`, `fork_copy`, `memfd` and `pool_memory` on systems that have no process pool. There is never an arena, so payloads and blobs
//! are on the heap.

pub(crate) mod arena {
    use std::convert::Infallible;
    use std::sync::Arc;

    use super::fork_copy::ForkRange;
    use super::memfd::PrivateMapping;

    #[derive(Debug)]
    pub(crate) struct Arena(Infallible);

    #[derive(Debug)]
    pub(crate) struct Block(Infallible);

    impl Arena {
        pub(crate) fn of_this_worker() -> Option<&'static Arc<Self>> {
            None
        }

        pub(crate) fn take(self: &Arc<Self>, _size: usize) -> Option<Block> {
            match self.0 {}
        }
    }

    impl Block {
        pub(crate) fn capacity(&self) -> usize {
            match self.0 {}
        }

        pub(crate) fn map_private(&self, _length: usize) -> Option<PrivateMapping> {
            match self.0 {}
        }

        pub(crate) fn in_forked_children(&self) -> ForkRange {
            match self.0 {}
        }

        pub(crate) fn arena(&self) -> &Arc<Arena> {
            match self.0 {}
        }

        pub(crate) fn address(&self) -> u64 {
            match self.0 {}
        }

        pub(crate) fn bytes(&self, _length: usize) -> &[u8] {
            match self.0 {}
        }

        pub(crate) fn bytes_mut(&mut self, _length: usize) -> &mut [u8] {
            match self.0 {}
        }
    }
}

pub(crate) mod fork_copy {
    use std::ptr::NonNull;

    #[derive(Debug)]
    pub(crate) struct ForkRange(());

    impl ForkRange {
        /// Does nothing: no range is shared with other processes.
        pub(crate) fn copied(_start: NonNull<u8>, _length: usize) -> Self {
            Self(())
        }
    }
}

pub(crate) mod pool_memory {
    use std::convert::Infallible;
    use std::io;
    use std::sync::Arc;

    use super::arena::{Arena, Block};

    pub(crate) trait Memory: Sync {
        fn take(&self, size: usize) -> io::Result<Block>;

        fn has(&self, block: &Block) -> bool;
    }

    impl Memory for Arc<Arena> {
        fn take(&self, size: usize) -> io::Result<Block> {
            Arena::take(self, size).ok_or_else(|| io::ErrorKind::Unsupported.into())
        }

        fn has(&self, block: &Block) -> bool {
            Arc::ptr_eq(self, block.arena())
        }
    }

    #[derive(Debug)]
    pub(crate) struct PoolMemory(Infallible);

    impl Memory for PoolMemory {
        fn take(&self, _size: usize) -> io::Result<Block> {
            match self.0 {}
        }

        fn has(&self, _block: &Block) -> bool {
            match self.0 {}
        }
    }
}

pub(crate) mod memfd {
    use std::convert::Infallible;
    use std::ptr::NonNull;

    #[derive(Debug)]
    pub(crate) struct Mapping(Infallible);

    #[derive(Debug)]
    pub(crate) struct PrivateMapping(Infallible);

    impl Mapping {
        pub(crate) fn map_private(&self, _start: NonNull<u8>, _length: usize) -> Option<PrivateMapping> {
            match self.0 {}
        }
    }

    impl PrivateMapping {
        pub(crate) fn bytes(&self) -> &[u8] {
            match self.0 {}
        }

        pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
            match self.0 {}
        }
    }
}
