"""The configuration file and its complaints."""

import re
from pathlib import Path

import pytest

from lego_serve import config, workflow_files
from lego_serve.config import load
from lego_serve.deployment import needed_nodes, pending_images, template_settings
from lego_serve.errors import ConfigError, LegoError
from lego_serve.planning.node_plans import node_plans
from lego_serve.served_workflows import configured, load_workflows
from lego_serve.serving.nodes.options import BackboneOptions, LoraOptions, NodePlace

ROOT = Path(__file__).parent.parent
MODEL = "models: {lego-tiny: {path: 'builtin:lego-tiny', max_sequence_length: 0}}\n"


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "configs").glob("*.yaml"))])
def test_the_shipped_files_load_and_serve_workflows(name: str) -> None:
    """Each configuration is valid and has workflows for its model."""
    path = ROOT / "configs" / name
    settings = load(path)
    assert load_workflows(settings, path.parent)


def test_two_workflows_of_a_model_share_its_nodes(tmp_path: Path) -> None:
    """Text to image and image to image need three deployments together."""
    path = tmp_path / "config.yaml"
    path.write_text(MODEL)
    settings = load(path)
    workflows = load_workflows(settings, path.parent)
    assert set(workflows) == {"lego-tiny", "lego-tiny-edit", "lego-tiny-img2img"}
    components = ("backbone", "text_encoder", "vae")
    assert needed_nodes(settings, workflows) == {("lego-tiny", c): NodePlace(f"lego-tiny.{c}") for c in components}


def test_adapters_and_controlnets_bring_their_workflows_and_nodes(tmp_path: Path) -> None:
    """Where the file has them the built-in workflows that take them are served; built-in ones may be absent."""
    added = "adapters: {roots: [ROOT]}, controlnets: {edges: {path: /nets/edges, placement: remote}}, path"
    path = tmp_path / "config.yaml"
    path.write_text(MODEL.replace("path", added.replace("ROOT", str(tmp_path))))
    settings = load(path)
    workflows = load_workflows(settings, tmp_path)
    more = ("-lora", "-controlnet", "-controlnet-lora", "-edit-lora", "-img2img-lora")
    assert {f"lego-tiny{name}" for name in more} < set(workflows)
    plans = {plan.app: plan for plan in node_plans(settings, workflows, tmp_path)}
    assert {"lego-tiny.adapters", "edges.controlnet"} < set(plans)
    lora, backbone = plans["lego-tiny.adapters"].options, plans["lego-tiny.backbone"].options
    assert isinstance(lora, LoraOptions)
    assert isinstance(backbone, BackboneOptions)
    assert lora.roots == (tmp_path,)
    assert backbone.controlnets[0].app == "edges.controlnet"
    path.write_text(MODEL.replace("path", added.replace("ROOT", "'builtin:none'").replace("/nets/edges", "builtin:no")))
    assert set(load_workflows(load(path), tmp_path)) == {"lego-tiny", "lego-tiny-edit", "lego-tiny-img2img"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MODEL + "sever: {port: 1}\n", ["sever", "did you mean `server`"]),
        (MODEL + "server: {prot: 1}\n", ["server.prot", "did you mean `port`"]),
        (MODEL.replace("path", "pth"), ["models.lego-tiny.", "path"]),
        (MODEL.replace("max_sequence_length: 0", "nodes: {backbone: {repliccas: {min: 1}}}"), ["replicas"]),
        (MODEL + "server: {port: 99999}\n", ["server.port", "65535"]),
        (MODEL + "server: {host: 0.0.0.0}\n", ["0.0.0.0", "keys"]),
        (MODEL + "tenants: {default: {max_stored_bytes: -1}}\n", ["tenants.default.max_stored_bytes", "0"]),
        (MODEL + "tenant_limits: {max_stored_byte: 1}\n", ["max_stored_byte", "did you mean `max_stored_bytes`"]),
        (MODEL + "server: [\n", ["not YAML"]),
        (MODEL + "\nserver: {}\nserver: {port: 1}\n", [":4:", "key `server` is given twice"]),
        ("modles: {}\n", [":1:", "unknown key `modles`", "did you mean `models`"]),
        (MODEL + "workflows: []\n", [":2:", "`workflows`", "leave the key out"]),
        (MODEL + "server: {host: 256.0.0.1}\n", ["`256.0.0.1` is no address"]),
        (MODEL + "server: {host: 'fe80::xyz'}\n", ["`fe80::xyz` is no address"]),
        (MODEL + "server: {cors_origins: ['*']}\n", ["cors_origins", "give `keys`"]),
        (MODEL + "server: {cors_origins: [app.example]}\n", ["`app.example` is no origin"]),
        (MODEL + "server: {cors_origins: ['https://app.example/']}\n", ["no origin"]),
        (MODEL + "server: {allowed_hosts: ['a:80']}\n", ["`a:80` is no name", "port"]),
        (MODEL + "server: {limits: {head_byte: 1}}\n", ["server.limits", "did you mean `head_bytes`"]),
        ("[]\n", ["mapping"]),
        ("server: {}\n", ["models", "missing"]),
        (MODEL + "keys: [{sha256: abc, tenant: a}]\n", ["sha256"]),
        (MODEL.replace("path", "adapters: {rots: [a]}, path"), ["models.lego-tiny.adapters.rots", "mean `roots`"]),
        (MODEL.replace("path", "adapters: {roots: []}, path"), ["models.lego-tiny.adapters.roots"]),
        (MODEL.replace("path", "controlnets: {A/b: {path: x}}, path"), ["controlnets.A/b"]),
        (MODEL.replace("path", "controlnets: {a: {path: x, placment: auto}}, path"), ["mean `placement`"]),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(tmp_path: Path, text: str, words: list[str]) -> None:
    """The complaint holds the file, the key and the nearest right one."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        load(path)
    message = str(wrong.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "Value error" not in message
    for word in words:
        assert word in message


OLD_KEYS = {  # where each stood, and what the complaint must say
    "nodes: {backbone: {order: fifo}}": "it is now `lane_policy`",
    "nodes: {backbone: {fidelity: strict}}": "it is now `batch_invariant: true (strict) or false (fast)`",
    "controlnets: {edges: {path: x, link: {bytes_s: 1, latency_s: 0}}}": "it is now `bytes_per_s`",
    "adapters: {roots: [a], storage_s: 1}": "`models.lego-tiny.adapters.storage_s`; it is no longer a setting",
    "controlnets: {edges: {path: x, storage_s: 1}}": "controlnets.edges.storage_s`; it is no longer a setting",
}


@pytest.mark.parametrize("old", OLD_KEYS)
def test_an_old_key_of_a_model_is_refused_with_what_took_its_place(tmp_path: Path, old: str) -> None:
    """The complaint names the new key, or says that there is none."""
    path = tmp_path / "config.yaml"
    path.write_text(MODEL.replace("path", f"{old}, path", 1))
    with pytest.raises(ConfigError, match=re.escape(OLD_KEYS[old])):
        load(path)


def test_an_old_key_of_the_server_is_refused_with_the_new_one(tmp_path: Path) -> None:
    """The complaint names the new key."""
    path = tmp_path / "config.yaml"
    path.write_text(MODEL + "server: {edit_check_share: 0.1}\n")
    with pytest.raises(ConfigError, match="it is now `quality_check_fraction`"):
        load(path)


def test_every_old_key_is_tried_above() -> None:
    """None of the renamed and removed keys is forgotten here."""
    tested = " ".join((*OLD_KEYS, "edit_check_share"))
    assert all(re.search(rf"\b{key}\b", tested) for key in (*config.RENAMED, *config.REMOVED))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("aliases: {gpt-image-1: lego-tny}", ["`aliases`", "gpt-image-1", "`lego-tny`", "did you mean `lego-tiny`"]),
        ("tenants: {acme: {requests_per_minute: 5}}", ["`tenants`", "no key is of tenant `acme`"]),
        ("aliases: {lego-tiny: lego-tiny}", ["`aliases`", "lego-tiny is the name of a workflow"]),
        ("default_workflow: lego-tny", ["`default_workflow`", "`lego-tny`", "did you mean `lego-tiny`"]),
        ("workflows: [lego-tny]", ["`workflows`", "`lego-tny`", "did you mean `lego-tiny`"]),
        ("workflows: [none.yaml]", ["`workflows`", "there is no file", "none.yaml"]),
        ("workflows: [lego-tiny, again.yaml]", ["`workflows`", "again.yaml", "second workflow"]),
    ],
)
def test_a_wrong_name_of_a_workflow_is_one_line_too(tmp_path: Path, line: str, words: list[str]) -> None:
    """It names the file, the key and the nearest workflow, before anything is started."""
    shipped = Path(workflow_files.__file__).parent / "workflows" / "lego-tiny.yaml"
    (tmp_path / "again.yaml").write_text(shipped.read_text())
    path = tmp_path / "config.yaml"
    path.write_text(MODEL + line + "\n")
    with pytest.raises(ConfigError) as wrong:
        configured(path)
    message = str(wrong.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """No traceback for a wrong path."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_a_workflow_without_its_model_is_refused(tmp_path: Path) -> None:
    """The complaint names both."""
    path = tmp_path / "config.yaml"
    path.write_text(MODEL.replace("lego-tiny:", "other:") + "workflows: [lego-tiny]\n")
    with pytest.raises(LegoError, match="lego-tiny needs model `lego-tiny`"):
        load_workflows(load(path), tmp_path)


def test_the_default_has_a_folder_for_adapters_of_ones_own(tmp_path: Path) -> None:
    """Made when the server starts, in its own folder; what is registered there outlives the server."""
    text = (ROOT / "configs" / "tiny.yaml").read_text()
    path, own = tmp_path / "tiny.yaml", tmp_path / "own"
    path.write_text(text.replace("gateways: 1", f"gateways: 1, data: {own}"))
    settings, workflows = configured(path)
    options = {plan.app: plan for plan in node_plans(settings, workflows, tmp_path)}["lego-tiny.adapters"].options
    assert isinstance(options, LoraOptions)
    assert options.roots[-1] == own / "adapters"
    assert (own / "adapters").is_dir()
    assert options.registry == own / "lego-tiny.adapters.json"
    assert options.own_profiles == own / "profiles"


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As long as there are other adapters; the log says so."""
    (tmp_path / "own").write_text("in the way")
    path = tmp_path / "config.yaml"

    def roots(folders: str) -> tuple[Path, ...]:
        model = MODEL.replace("path", f"adapters: {{roots: {folders}}}, path")
        path.write_text(f"server: {{data: {tmp_path}/own}}\n{model}")
        settings, workflows = configured(path)
        plans = {plan.app: plan for plan in node_plans(settings, workflows, tmp_path)}
        options = plans["lego-tiny.adapters"].options
        assert isinstance(options, LoraOptions)
        return options.roots

    assert roots(f"['data:mine', {tmp_path}]") == (tmp_path,)
    assert "server.data" in caplog.text
    with pytest.raises(ConfigError, match=r"models\.lego-tiny\.adapters\.roots"):
        roots("['data:mine']")


def test_what_can_be_pinned_is_shared_out_among_tenants(tmp_path: Path) -> None:
    """Half of a replica's bytes: whole without keys, in equal parts by tenant, or as the file says; the same on both
    sides, gateways and replicas.
    """
    path, half = tmp_path / "config.yaml", 2**27

    def part(keys: int, line: str = "") -> int:
        tenants = "".join(f"- {{sha256: '{i:064x}', tenant: t{i // 2}}}\n" for i in range(keys))
        path.write_text(f"{MODEL}{line}\n" + (f"keys:\n{tenants}" if keys else ""))
        settings, workflows = configured(path)
        plans = {plan.app: plan for plan in node_plans(settings, workflows, tmp_path)}
        options = plans["lego-tiny.backbone"].options
        assert isinstance(options, BackboneOptions)
        found = options.templates.tenant_pinned_bytes
        assert found is not None
        assert template_settings(settings, tmp_path, tmp_path).tenant_pins == {"lego-tiny": found}
        return int(found)

    assert [part(keys) for keys in (0, 1, 2, 4, 6)] == [half, half, half, half // 2, half // 3]
    assert part(4, "templates: {tenant_pinned_bytes: 1000}") == 1000
    assert part(0, f"templates: {{tenant_pinned_bytes: {2**40}}}") == half
    for wrong in ("-1", "unfair"):
        with pytest.raises(ConfigError, match="tenant_pinned_bytes"):
            part(0, f"templates: {{tenant_pinned_bytes: {wrong}}}")


def test_the_largest_deadline_is_not_below_the_default_one(tmp_path: Path) -> None:
    """The complaint names both."""
    path = tmp_path / "config.yaml"
    path.write_text(MODEL + "server: {max_deadline_ms: 5, default_deadline_ms: 10}\n")
    with pytest.raises(ConfigError, match=r"max_deadline_ms \(5\) is less than default_deadline_ms \(10\)"):
        load(path)


@pytest.mark.parametrize(
    ("server", "images"), [("{}", 512), ("{max_pending_jobs: 4}", 8), ("{max_pending_images: 3}", 3)]
)
def test_pending_images_are_twice_the_jobs_unless_they_are_given(tmp_path: Path, server: str, images: int) -> None:
    """Each gateway's own."""
    path = tmp_path / "config.yaml"
    path.write_text(MODEL + f"server: {server}\n")
    assert pending_images(load(path)) == images


def test_keys_of_a_file_are_added_and_let_the_server_be_open(tmp_path: Path) -> None:
    """The file lies beside the configuration."""
    path = tmp_path / "config.yaml"
    path.write_text("server: {host: 0.0.0.0}\nmodels: {a: {path: b}}\nkeys_file: keys.yaml\n")
    (tmp_path / "keys.yaml").write_text(f"keys: [{{sha256: '{'0' * 64}', tenant: a}}]\n")
    assert [key.tenant for key in load(path).keys] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys: []", "keys.yaml:1"),
        ("key: []", "unknown key `key`; did you mean `keys`?"),
        (f"keys: [{{sha256: '{'0' * 64}', tenants: a}}]", "unknown key `keys.0.tenants`; did you mean `tenant`?"),
        (None, "keys.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_file_of_keys_is_refused_as_the_configuration_is(tmp_path: Path, text: str | None, message: str) -> None:
    """One line with file, key and the nearest right one."""
    path = tmp_path / "config.yaml"
    path.write_text("models: {a: {path: b}}\nkeys_file: keys.yaml\n")
    if text is not None:
        (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert message in refused.value.message
    assert "\n" not in refused.value.message


def test_the_default_is_the_file_that_the_pages_show() -> None:
    """A wheel has no folder ``configs``, so the package has a copy of its own."""
    shown = Path(__file__).parent.parent / "configs" / "tiny.yaml"
    assert config.default_config().read_text() == shown.read_text()
