//! The snapshot that a shard serves, and what it has made of it: clusters with their hosts, and the
//! route tables that connection managers refer to by name.
//!
//! A cluster's runtime is made when it is first asked for, so that a shard holds nothing for the
//! thousands of clusters that it never uses, and a new snapshot costs it only what changed. Invariant:
//! what belongs to an endpoint survives every snapshot that keeps the endpoint.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use outrigger_xds::snapshot::{
    ClusterId, RouteSource, RouteTable, RpcProtocol, ScopedRoutes, ServiceSide, Snapshot,
};

use crate::stats::Registry;
use crate::timer::Nanos;

use super::scopes::{LiveScopes, Routes};
use super::{Breakers, ClusterRuntime, Host};

/// What a shard serves.
pub struct Serving {
    shard: usize,
    registry: Arc<Registry>,
    breakers: Arc<Breakers>,
    snapshot: RefCell<Arc<Snapshot>>,
    /// By number; nothing where a cluster was not asked for, or is not there.
    clusters: RefCell<Vec<Option<Rc<ClusterRuntime>>>>,
    /// By name; those that a connection manager of this shard refers to.
    routes: RefCell<HashMap<Box<str>, Rc<LiveRoutes>>>,
    /// As the routes.
    scopes: RefCell<HashMap<Box<str>, Rc<LiveScopes>>>,
    no_routes: Arc<RouteTable>,
}

/// A table as one shard holds it: its requests count themselves here, and so take their table without a
/// write that other shards would see.
pub struct HeldRoutes(pub(super) Arc<RouteTable>);

impl Deref for HeldRoutes {
    type Target = RouteTable;

    fn deref(&self) -> &RouteTable {
        &self.0
    }
}

/// The routes of connection managers that name the same table: what new requests are routed by.
pub struct LiveRoutes {
    current: RefCell<Rc<HeldRoutes>>,
}

impl LiveRoutes {
    fn new(table: &Arc<RouteTable>) -> Rc<Self> {
        Rc::new(Self { current: RefCell::new(Rc::new(HeldRoutes(Arc::clone(table)))) })
    }

    /// The table for a request that begins now; the request keeps it to its end.
    pub fn current(&self) -> Rc<HeldRoutes> {
        Rc::clone(&self.current.borrow())
    }

    fn succeed(&self, table: &Arc<RouteTable>) {
        if !Arc::ptr_eq(&self.current.borrow().0, table) {
            self.current.replace(Rc::new(HeldRoutes(Arc::clone(table))));
        }
    }
}

impl Serving {
    /// What a shard serves at its start.
    pub fn new(
        snapshot: &Arc<Snapshot>,
        shard: usize,
        registry: &Arc<Registry>,
        breakers: &Arc<Breakers>,
    ) -> Self {
        Self {
            shard,
            registry: Arc::clone(registry),
            breakers: Arc::clone(breakers),
            snapshot: RefCell::new(Arc::clone(snapshot)),
            clusters: RefCell::default(),
            routes: RefCell::default(),
            scopes: RefCell::default(),
            no_routes: Arc::new(RouteTable::empty("")),
        }
    }

    /// Goes on to the next snapshot: clusters that did not change are the same, hosts that are still
    /// there keep their connections, the others close theirs.
    pub fn advance(&self, snapshot: &Arc<Snapshot>) {
        let before = self.snapshot.replace(Arc::clone(snapshot));
        for id in snapshot.clusters.changes_since(&before.clusters) {
            self.renew(snapshot, id);
        }
        if !Arc::ptr_eq(&snapshot.route_tables, &before.route_tables) {
            // Only this table knows those that no listener refers to any more.
            self.routes.borrow_mut().retain(|name, live| {
                match snapshot.route_tables.get(name) {
                    Some(table) => live.succeed(table),
                    None if snapshot.names_table(name) => live.succeed(&self.no_routes),
                    // Connections that began with it keep it as it was last.
                    None => {}
                }
                Rc::strong_count(live) > 1
            });
        }
        if !Arc::ptr_eq(&snapshot.scopes, &before.scopes) {
            self.scopes.borrow_mut().retain(|key, live| {
                let scopes = snapshot.scopes.get(key);
                if scopes.is_some() || snapshot.names_scopes(key) {
                    live.succeed(scopes);
                }
                Rc::strong_count(live) > 1
            });
        }
    }

    /// A cluster of which something changed; one that was never asked for needs nothing.
    fn renew(&self, snapshot: &Snapshot, id: ClusterId) {
        let mut clusters = self.clusters.borrow_mut();
        let Some(slot) = clusters.get_mut(id.0 as usize) else { return };
        let Some(before) = slot.take() else { return };
        match snapshot.clusters.member(id) {
            Some(member) => *slot = Some(self.runtime(member, Some(&before))),
            None => before.retire(),
        }
    }

    fn runtime(
        &self,
        member: &outrigger_xds::snapshot::Member,
        before: Option<&ClusterRuntime>,
    ) -> Rc<ClusterRuntime> {
        // A number is given to another name only when nothing refers to the first: never while its
        // runtime is there.
        debug_assert!(before.is_none_or(|before| before.config.name == member.cluster.name));
        let (registry, breakers) = (&self.registry, &self.breakers);
        Rc::new(ClusterRuntime::succeed(member, before, self.shard, registry, breakers))
    }

    /// The cluster with this number, if it exists.
    pub fn cluster(&self, id: ClusterId) -> Option<Rc<ClusterRuntime>> {
        if let Some(Some(known)) = self.clusters.borrow().get(id.0 as usize) {
            return Some(Rc::clone(known));
        }
        let snapshot = self.snapshot.borrow();
        let runtime = self.runtime(snapshot.clusters.member(id)?, None);
        let mut clusters = self.clusters.borrow_mut();
        if clusters.len() <= id.0 as usize {
            clusters.resize(id.0 as usize + 1, None);
        }
        clusters[id.0 as usize] = Some(Rc::clone(&runtime));
        Some(runtime)
    }

    /// The cluster called `name`.
    pub fn cluster_by_name(&self, name: &str) -> Option<Rc<ClusterRuntime>> {
        let id = self.snapshot.borrow().clusters.id(name)?;
        self.cluster(id)
    }

    /// The cluster of a service that was published or subscribed.
    pub fn service(
        &self,
        side: ServiceSide,
        protocol: &RpcProtocol,
        key: &[u8],
    ) -> Option<Rc<ClusterRuntime>> {
        let id = self.snapshot.borrow().services.find(side, protocol, key)?;
        self.cluster(id)
    }

    /// The routes of a connection manager, as they come to be.
    pub fn routes(&self, source: &RouteSource) -> Routes {
        match source {
            RouteSource::Inline(table) => Routes::Table(LiveRoutes::new(table)),
            RouteSource::Rds(rds) => Routes::Table(self.table(&rds.key)),
            RouteSource::Scoped(scoped) => {
                Routes::Scoped(Arc::clone(scoped), self.scopes_of(scoped))
            }
        }
    }

    fn scopes_of(&self, scoped: &ScopedRoutes) -> Rc<LiveScopes> {
        let mut scopes = self.scopes.borrow_mut();
        let live = scopes.entry(scoped.key.clone()).or_insert_with(|| {
            let live = LiveScopes::new(&self.no_routes);
            live.succeed(self.snapshot.borrow().scopes.get(&scoped.key));
            Rc::new(live)
        });
        Rc::clone(live)
    }

    fn table(&self, name: &str) -> Rc<LiveRoutes> {
        let mut routes = self.routes.borrow_mut();
        if let Some(known) = routes.get(name) {
            return Rc::clone(known);
        }
        let snapshot = self.snapshot.borrow();
        let live = LiveRoutes::new(snapshot.route_tables.get(name).unwrap_or(&self.no_routes));
        routes.insert(name.into(), Rc::clone(&live));
        live
    }

    /// Requests with injected faults, on all shards.
    pub fn active_faults(&self, stat_prefix: &str) -> Arc<AtomicU32> {
        self.breakers.active_faults(stat_prefix)
    }

    /// The configuration served now.
    pub fn snapshot(&self) -> Ref<'_, Arc<Snapshot>> {
        self.snapshot.borrow()
    }

    /// Hands every host of a cluster that is in use to `visit`.
    pub fn visit_hosts(&self, mut visit: impl FnMut(&Rc<ClusterRuntime>, &Rc<Host>)) {
        for cluster in self.clusters.borrow().iter().flatten() {
            cluster.visit_hosts(|host| visit(cluster, host));
        }
    }

    /// Drops endpoints that clients named and that are no longer used. Returns when to look again.
    pub(super) fn sweep(&self, now: Nanos) -> Option<Nanos> {
        self.clusters.borrow().iter().flatten().filter_map(|cluster| cluster.sweep(now)).min()
    }
}
