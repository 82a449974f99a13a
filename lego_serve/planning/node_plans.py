"""The plan of each deployment: what a node is made of, where it runs, and how often."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lego_serve import config
from lego_serve.core.scheduling.autoscaling import ReplicaBounds
from lego_serve.core.workflow.graph import BACKBONE, Workflow, tier_of
from lego_serve.deployment import (
    is_shared,
    model_spec,
    needed_nodes,
    needed_place,
    remote_controlnets,
    tenant_pin_room,
    tier_book,
)
from lego_serve.models.registry import ModelSpec
from lego_serve.planning.addon_plans import (
    adapter_options,
    controlnet_plan,
    controlnet_plans,
    lora_plan,
    placement_of,
    plan_of,
)
from lego_serve.planning.budgets import budgeted
from lego_serve.serving.nodes.options import (
    WORKER_POOL,
    WORKERS,
    BackboneOptions,
    NodeOptions,
    NodePlace,
    NodePlan,
    TemplateOptions,
    TextEncoderOptions,
    VaeOptions,
    WorkerOptions,
)

log = logging.getLogger("lego_serve")


def node_plans(settings: config.Settings, workflows: Mapping[str, Workflow], state: Path) -> list[NodePlan]:
    """The deployments of the workflows' nodes, and of the ControlNets that may run elsewhere than in a backbone.

    ``state``: a folder for what outlives a node's process.  Raises ConfigError where their fewest replicas take more
    than the budget.
    """
    server = settings.server.name
    nodes = [replace(_plan(settings, *key, state), server=server) for key in needed_nodes(settings, workflows)]
    shared = [plan for plan in nodes if is_shared(settings, plan.spec.name, plan.component)]
    plans = [plan for plan in nodes if plan not in shared]
    if shared:
        plans.append(replace(_worker_plan(settings, shared), server=server))
    nets = remote_controlnets(settings, workflows)
    plans += [replace(controlnet_plan(settings, *net), server=server) for net in nets]
    return budgeted(plans, settings.budget)


def _plan(settings: config.Settings, model: str, component: str, state: Path) -> NodePlan:
    spec, nodes = model_spec(settings, model), settings.models[model].nodes
    match component:
        case "adapters":
            return lora_plan(settings, spec, state)
        case "text_encoder":
            encoder = nodes.text_encoder
            options: NodeOptions = TextEncoderOptions(
                encoder.max_batch, encoder.cache_bytes, adapter_options(settings, model)
            )
            return plan_of(spec, component, options, encoder)
        case "vae":
            return plan_of(spec, component, VaeOptions(nodes.vae.max_batch), nodes.vae)
        case _ if component == BACKBONE:
            return plan_of(spec, component, _backbone_options(settings, model), nodes.backbone)
        case _ if tier := tier_of(component):
            return _checkpoint_plan(settings, spec, component, tier)
    raise ValueError(f"no component {component}")


def _checkpoint_plan(settings: config.Settings, spec: ModelSpec, component: str, tier: str) -> NodePlan:
    """The backbone that computes on the checkpoint of a tier: it has the tier's steps, and nothing that is not tuned.

    Requests that name the tier are some of a model's, so that it begins with one replica.
    """
    options, node = _backbone_options(settings, spec.name), settings.models[spec.name].nodes.backbone
    checkpoint = options.tiers.checkpoints[tier]
    own = replace(
        options,
        adapters=None,
        controlnets=(),
        controlnet_bytes=None,
        templates=TemplateOptions(),
        tiers=options.tiers.of_checkpoint(tier),
        checkpoint_tier=tier,
        helpers=None if checkpoint.is_unguided else _helpers(settings, spec.name, component),
    )
    plan = plan_of(replace(spec, path=checkpoint.path, revision=None), component, own, node)
    return replace(plan, replicas=ReplicaBounds(1, node.replicas.max))


def _worker_plan(settings: config.Settings, shared: Sequence[NodePlan]) -> NodePlan:
    """The shared workers; their spec says no more than their name and the device that all their nodes compute on."""
    workers = settings.workers
    nodes, device = [plan.hosted for plan in shared], shared[0].spec.device
    host_bytes = workers.max_bytes if workers.host_bytes is None else workers.host_bytes
    if device == "cpu":  # what is evicted has left the same memory
        host_bytes = 0
    return NodePlan(
        ModelSpec(WORKER_POOL, path="", device=device),
        WORKERS,
        WorkerOptions(tuple(nodes), workers.max_bytes, workers.preload, host_bytes),
        ReplicaBounds(workers.replicas.min, workers.replicas.max),
        workers.cpus,
        workers.gpus,
        placement_of(workers),
    )


def _backbone_options(settings: config.Settings, model: str) -> BackboneOptions:
    chosen = settings.models[model]
    node = chosen.nodes.backbone
    return BackboneOptions(
        lane_policy=node.lane_policy,
        max_step_s=None if node.max_step_s == "auto" else float(node.max_step_s),
        max_rows=None if node.max_rows == "auto" else int(node.max_rows),
        checkpoint_every_steps=node.checkpoint_every_steps,
        batch_invariant=node.batch_invariant,
        bucket_rows=node.bucket_rows,
        adapters=adapter_options(settings, model),
        adapter_mode="grouped" if chosen.adapters is None else chosen.adapters.mode,
        controlnets=controlnet_plans(settings, model),
        controlnet_bytes=chosen.controlnet_cache_bytes,
        tiers=tier_book(settings, model),
        templates=TemplateOptions(node.template_bytes, node.template_coding, tenant_pin_room(settings, model)),
        helpers=_helpers(settings, model, BACKBONE),
    )


def _helpers(settings: config.Settings, model: str, component: str) -> NodePlace | None:
    """Where other replicas of a backbone are asked for help; None where there are none, or none is wanted."""
    node = settings.models[model].nodes.backbone
    place = needed_place(settings, model, component)
    replicas = settings.workers.replicas if place.hosted else node.replicas
    # Without the rule of equal bits a branch alone may differ from one in company.
    return place if node.split_guidance and node.batch_invariant and replicas.max > 1 else None
