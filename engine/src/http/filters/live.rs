//! The filters of a connection manager as they come to be: those whose configuration comes by name (ECDS)
//! change while connections stay.
//!
//! Invariant: nothing of it costs a request anything where no filter comes by name, and a comparison of
//! two pointers where one does, until there is a change.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::snapshot::{Extensions, HttpConnectionManager, TrafficDirection};

use crate::shard::Shard;

use super::{Filters, Found};

/// What new requests are filtered by.
pub(in crate::http) struct LiveFilters {
    config: Arc<HttpConnectionManager>,
    direction: TrafficDirection,
    current: RefCell<Rc<Filters>>,
    /// What they were made of; nothing where none comes by name.
    seen: RefCell<Option<Arc<Extensions>>>,
}

impl LiveFilters {
    /// The filters of `config`, for a listener with this direction of traffic.
    pub(in crate::http) fn new(
        shard: &Shard,
        config: &Arc<HttpConnectionManager>,
        direction: TrafficDirection,
    ) -> Self {
        let extensions = Arc::clone(&shard.serving.snapshot().extensions);
        let found = find(config, &extensions, None);
        let comes_by_name = config.filters.iter().any(|filter| filter.discovery().is_some());
        Self {
            config: Arc::clone(config),
            direction,
            current: RefCell::new(Rc::new(Filters::new(shard, config, direction, found))),
            seen: RefCell::new(comes_by_name.then_some(extensions)),
        }
    }

    /// Those for a request that begins now.
    #[inline]
    pub(in crate::http) fn current(&self, shard: &Shard) -> Rc<Filters> {
        let is_new =
            |seen: &Arc<Extensions>| !Arc::ptr_eq(seen, &shard.serving.snapshot().extensions);
        if self.seen.borrow().as_ref().is_some_and(is_new) {
            self.renew(shard);
        }
        Rc::clone(&self.current.borrow())
    }

    #[cold]
    fn renew(&self, shard: &Shard) {
        let extensions = Arc::clone(&shard.serving.snapshot().extensions);
        let before = Rc::clone(&self.current.borrow());
        let found = find(&self.config, &extensions, Some(&before.found));
        let is_same = found.iter().zip(&before.found).all(|(one, other)| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        });
        if !is_same {
            let filters = Filters::new(shard, &self.config, self.direction, found);
            self.current.replace(Rc::new(filters));
        }
        self.seen.replace(Some(extensions));
    }
}

/// What servers say of each filter. What only connections of a listener that is gone still name stays as
/// it was `before`: nobody is told of it any more, or of one of another type.
fn find(config: &HttpConnectionManager, extensions: &Extensions, before: Option<&Found>) -> Found {
    let find = |(index, filter): (usize, &outrigger_xds::snapshot::HttpFilter)| {
        let wanted = filter.discovery()?;
        match extensions.get(&wanted.key) {
            Some(known) if known.as_ref().is_none_or(|known| wanted.may_be(known)) => known.clone(),
            _ => before?.get(index)?.clone(),
        }
    };
    config.filters.iter().enumerate().map(find).collect()
}
