//! A sorted map that is cheap to clone and to change after: its entries lie in chunks, and a clone shares those that are
//! not changed. So the views of a cluster that follow one another hold what is common to them once, and what differs
//! between two is found without looking at the rest.

use std::borrow::Borrow;
use std::sync::Arc;

/// A chunk with more entries is cut in two.
const MOST: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct SharedMap<K, V> {
    /// None is empty; the keys rise within each and from each to the next.
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.place(key))?;
        let at = chunk.binary_search_by(|(known, _)| known.borrow().cmp(key)).ok()?;
        Some(&chunk[at].1)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let place = self.place(&key);
        let Some(chunk) = self.chunks.get_mut(place) else {
            self.len += 1;
            return self.chunks.push(Arc::new(vec![(key, value)]));
        };
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(at) => chunk[at].1 = value,
            Err(at) => {
                self.len += 1;
                chunk.insert(at, (key, value));
                if chunk.len() > MOST {
                    let rest = chunk.split_off(MOST / 2);
                    chunk.shrink_to_fit();
                    self.chunks.insert(place + 1, Arc::new(rest));
                }
            }
        }
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        let place = self.place(key);
        let Some(chunk) = self.chunks.get_mut(place) else { return };
        let Ok(at) = chunk.binary_search_by(|(known, _)| known.borrow().cmp(key)) else { return };
        self.len -= 1;
        let chunk = Arc::make_mut(chunk);
        chunk.remove(at);
        if chunk.is_empty() {
            self.chunks.remove(place);
        }
    }

    /// The entries for which there is another value than in `before`, or none, by `is_same`. Chunks that both share are
    /// not looked into.
    pub(super) fn since<'a>(
        &'a self,
        before: &'a Self,
        is_same: impl Fn(&V, &V) -> bool + 'a,
    ) -> impl Iterator<Item = &'a (K, V)> {
        let is_shared = |chunk: &&Arc<Vec<(K, V)>>| {
            before.chunks.get(before.place(&chunk[0].0)).is_some_and(|b| Arc::ptr_eq(b, chunk))
        };
        let others = self.chunks.iter().filter(move |chunk| !is_shared(chunk)).flat_map(|chunk| chunk.iter());
        others.filter(move |(key, value)| before.get(key).is_none_or(|known| !is_same(known, value)))
    }

    /// The chunk that holds `key`, or is to: the last that begins at or before it.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.chunks.partition_point(|chunk| chunk[0].0.borrow() <= key).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_a_sorted_map_whose_clones_stay_as_they_were() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
        for _ in 0..300 {
            let (before, model_before) = (map.clone(), model.clone());
            for _ in 0..rng.usize(1..20) {
                let key = rng.u32(0..500);
                if rng.u32(0..5) < 3 {
                    let value = rng.u32(..);
                    map.insert(key, value);
                    model.insert(key, value);
                } else {
                    map.remove(&key);
                    model.remove(&key);
                }
            }
            let entries: Vec<_> = map.iter().copied().collect();
            assert_eq!(entries, model.clone().into_iter().collect::<Vec<_>>());
            assert_eq!(map.len(), model.len());
            assert!((0..500).all(|key| map.get(&key) == model.get(&key)));
            assert!(before.iter().copied().eq(model_before.clone()));
            let since: Vec<_> = map.since(&before, |one, other| one == other).map(|(key, _)| *key).collect();
            let differs = |key: &&u32| model_before.get(*key) != model.get(*key);
            assert_eq!(since, model.keys().filter(differs).copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_change_copies_one_chunk_and_is_found_without_looking_into_the_others() {
        let mut map = SharedMap::default();
        (0..10_000).for_each(|key| map.insert(key, 0));
        let before = map.clone();
        map.insert(5_000, 1);
        let copied = map.chunks.iter().zip(&before.chunks).filter(|(one, other)| !Arc::ptr_eq(one, other)).count();
        assert_eq!(copied, 1);
        let compared = std::cell::Cell::new(0);
        let is_same = |one: &i32, other: &i32| {
            compared.set(compared.get() + 1);
            one == other
        };
        assert_eq!(map.since(&before, is_same).collect::<Vec<_>>(), [&(5_000, 1)]);
        assert!(compared.get() <= MOST, "{}", compared.get());
    }
}
