//! How large an instance may grow.

use wasmtime::ResourceLimiter;

/// How many elements all tables of an instance may have. The built-in providers have some two thousand, for functions that
/// are called through pointers; an element takes eight bytes of the host.
const MOST_TABLE_ELEMENTS: usize = 256 * 1024;

/// How many core instances a component may be made of. The built-in providers are made of fewer than ten, components from
/// several parts in several languages of some dozens.
const MOST_INSTANCES: usize = 256;

/// How many tables and how many memories they may have together.
const MOST_OF_EACH: usize = 256;

/// What is left for one instance. Nothing comes back before its end: neither memories nor tables ever shrink.
pub(crate) struct Bounds {
    memory: usize,
    elements: usize,
}

impl Bounds {
    /// For so many bytes of memory, all memories together.
    pub(super) fn new(memory: usize) -> Self {
        Self {
            memory,
            elements: MOST_TABLE_ELEMENTS,
        }
    }
}

/// Takes the growth out of what is left, if there is enough.
fn take(left: &mut usize, current: usize, desired: usize, maximum: Option<usize>) -> bool {
    // Past its own maximum it will not grow, and nothing must be counted.
    if maximum.is_some_and(|maximum| desired > maximum) {
        return false;
    }
    match left.checked_sub(desired.saturating_sub(current)) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(take(&mut self.memory, current, desired, maximum))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(take(&mut self.elements, current, desired, maximum))
    }

    fn instances(&self) -> usize {
        MOST_INSTANCES
    }

    fn tables(&self) -> usize {
        MOST_OF_EACH
    }

    fn memories(&self) -> usize {
        MOST_OF_EACH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each growth is granted, in order.
    fn granted(
        growths: &[(usize, usize, Option<usize>)],
        grow: impl Fn(&mut Bounds, usize, usize, Option<usize>) -> wasmtime::Result<bool>,
    ) -> Vec<bool> {
        let mut bounds = Bounds::new(MOST_TABLE_ELEMENTS);
        let grow =
            |&(current, desired, maximum)| grow(&mut bounds, current, desired, maximum).is_ok_and(|granted| granted);
        growths.iter().map(grow).collect()
    }

    #[test]
    fn all_memories_and_all_tables_share_one_bound_each() {
        const ALL: usize = MOST_TABLE_ELEMENTS;
        for (growths, expected) in [
            (&[(0, ALL, None), (0, 1, None)][..], &[true, false][..]),
            (&[(0, ALL - 1, None), (0, 2, None), (0, 1, None)], &[true, false, true]),
            (
                &[(0, 10, None), (10, ALL, None), (ALL, ALL + 1, None)],
                &[true, true, false],
            ),
            (&[(0, 20, Some(10)), (0, ALL, Some(ALL))], &[false, true]),
            (&[(0, usize::MAX, None), (0, ALL, None)], &[false, true]),
        ] {
            assert_eq!(granted(growths, Bounds::memory_growing), expected, "{growths:?}");
            assert_eq!(granted(growths, Bounds::table_growing), expected, "{growths:?}");
        }
    }
}
