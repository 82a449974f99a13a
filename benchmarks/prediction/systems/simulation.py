"""Both systems of every suite as models over one virtual clock, started as the suites start real ones."""

from benchmarks.prediction.costs import Profile
from benchmarks.prediction.systems.addon_loads import AddonLoads, Store
from benchmarks.prediction.systems.lego import AddonCaches, ServerLayout, SimulatedLego
from benchmarks.prediction.systems.monolith import SimulatedMonolith
from benchmarks.prediction.systems.server import SimulatedServer
from lego_serve.sim.engine import Engine
from loadgen.addons.storage import REPLICA_CACHE_SHARE, AddonPool, SimulatedStorage
from loadgen.goodput.run import GoodputSystems
from loadgen.mixed.plan import Layout
from loadgen.mixed.systems import MixedSystems


class SuiteStore:
    """The add-ons of a suite and the load times that its storage is set to; their bytes do not change."""

    def __init__(self, pool: AddonPool, storage: SimulatedStorage) -> None:
        self._adapters, self._controlnets, self._storage = pool.adapter_sizes, pool.controlnet_sizes, storage

    @property
    def adapters(self) -> Store:
        """The adapters as they load now."""
        return Store(self._adapters, self._storage.adapter_bytes, self._storage.adapter_load_s)

    @property
    def controlnets(self) -> Store:
        """The ControlNets as they load now."""
        return Store(self._controlnets, self._storage.controlnet_bytes, self._storage.controlnet_load_s)


class Simulation:
    """One clock, and the servers that start on it."""

    def __init__(self, profile: Profile, layout: ServerLayout, seed: int = 0) -> None:
        self._profile, self._layout, self._seed = profile, layout, seed
        self._engine = Engine()

    def clock(self) -> float:
        """Return the virtual seconds."""
        return self._engine.now

    def baseline(self, layout: Layout, store: SuiteStore | None = None) -> SimulatedServer:
        """Start the baseline in a layout."""
        costs, profile = self._profile.monolith_with(layout.threads), self._profile
        machine = SimulatedMonolith(
            self._engine, profile.cores, costs, layout.replicas, profile.text_rows, store, self._seed
        )
        return SimulatedServer(self._engine, machine, costs.ready_s)

    def lego(self, backbones: int | None = None, store: SuiteStore | None = None) -> SimulatedServer:
        """Start lego_serve with so many backbones, by default those of the layout."""
        profile, count = self._profile, backbones or self._layout.backbones
        layout = ServerLayout(count, self._layout.lane_policy, self._layout.max_pending)
        caches = None if store is None else self._caches(store, count)
        machine = SimulatedLego(
            self._engine, profile.cores, profile.server, layout, profile.text_rows, caches, self._seed
        )
        return SimulatedServer(self._engine, machine, profile.server.ready_s)

    def _caches(self, store: SuiteStore, backbones: int) -> AddonCaches:
        """Return caches as the suite's configuration divides them, empty."""
        adapters, nets = store.adapters, store.controlnets
        node_bytes = adapters.kept_bytes - backbones * int(REPLICA_CACHE_SHARE * adapters.kept_bytes)
        each = {
            f"backbone-{number}": AddonLoads(self._engine, nets, nets.kept_bytes // backbones)
            for number in range(backbones)
        }
        return AddonCaches(AddonLoads(self._engine, adapters, node_bytes), each)

    def mixed_systems(self, store: SuiteStore | None = None) -> MixedSystems:
        """Return both systems of suite ``mixed`` and its like."""
        return MixedSystems(
            baseline=lambda layout, compiled: self.baseline(layout, store),
            lego=lambda backbones: self.lego(backbones, store),
        )

    def goodput_systems(self) -> GoodputSystems:
        """Return both systems of the suites of goodput."""
        return GoodputSystems(self.baseline, self.lego)
