//! Where a connection manager takes the table of a request from: one for all, or one for each scope.
//!
//! Invariant: a request allocates nothing, and writes nothing that other shards see, but for the first
//! one of a scope after the scopes changed.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_xds::snapshot::{RequestView, RouteTable, ScopeMap, ScopedRoutes};

use super::serving::{HeldRoutes, LiveRoutes};

/// The routes of a connection manager.
pub enum Routes {
    /// One table.
    Table(Rc<LiveRoutes>),
    /// A table for each scope of requests.
    Scoped(Arc<ScopedRoutes>, Rc<LiveScopes>),
}

impl Routes {
    /// The table for a request that begins now; the request keeps it to its end. One of no scope has a
    /// table without routes.
    pub fn of<R: RequestView>(&self, request: &R) -> Rc<HeldRoutes> {
        match self {
            Routes::Table(live) => live.current(),
            Routes::Scoped(scoped, live) => live.find(scoped, request),
        }
    }
}

/// The scopes of connection managers that name the same ones.
pub struct LiveScopes {
    current: RefCell<HeldScopes>,
    no_routes: Rc<HeldRoutes>,
}

/// Scopes as one shard holds them.
#[derive(Default)]
struct HeldScopes {
    map: Arc<ScopeMap>,
    /// By the numbers of the scopes; those that were asked for.
    tables: Box<[OnceCell<Rc<HeldRoutes>>]>,
}

impl LiveScopes {
    pub(super) fn new(no_routes: &Arc<RouteTable>) -> Self {
        let no_routes = Rc::new(HeldRoutes(Arc::clone(no_routes)));
        Self { current: RefCell::default(), no_routes }
    }

    /// Goes on to the next scopes.
    pub(super) fn succeed(&self, map: Option<&Arc<ScopeMap>>) {
        let map = map.cloned().unwrap_or_default();
        if !Arc::ptr_eq(&self.current.borrow().map, &map) {
            let tables = (0..map.len()).map(|_| OnceCell::new()).collect();
            self.current.replace(HeldScopes { map, tables });
        }
    }

    fn find<R: RequestView>(&self, scoped: &ScopedRoutes, request: &R) -> Rc<HeldRoutes> {
        let current = self.current.borrow();
        let Some((number, table)) = current.map.find(&scoped.key_builder, request) else {
            return Rc::clone(&self.no_routes);
        };
        match current.tables.get(number) {
            Some(held) => Rc::clone(held.get_or_init(|| Rc::new(HeldRoutes(Arc::clone(table))))),
            None => Rc::clone(&self.no_routes),
        }
    }
}
