//! The names of `arena`, `fork_copy` and `memfd` on systems that have no process pool. There is never an arena, so payloads and blobs
//! are on the heap.

pub(crate) mod arena {
    use std::convert::Infallible;

    use super::fork_copy::ForkRange;
    use super::memfd::PrivateMapping;

    #[derive(Debug)]
    pub(crate) struct Arena(Infallible);

    #[derive(Debug)]
    pub(crate) struct Block(Infallible);

    impl Arena {
        pub(crate) fn of_this_process() -> Option<&'static Self> {
            None
        }

        pub(crate) fn take(&'static self, _size: usize) -> Option<Block> {
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

        pub(crate) fn offset(&self) -> u64 {
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
