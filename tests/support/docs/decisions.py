"""What was decided on each command that a page shows: the test that runs it, or why none does.

A command that stands in none of these tables fails tests/cli/test_decided_commands.py.
"""

from tests.support.docs.pages import ROOT, in_blocks, run_on_a_server

ON_THE_SERVER = "tests/test_readme.py::test_lego_serve_commands_run"
CONSOLE = "tests/test_readme.py::test_commands_of_the_workflow_page_print_what_it_says"
OPERATORS = "tests/cli/test_operator_commands.py::test_operators_commands_ask_for_the_routes_beside_them"
OF_ADAPTERS = "tests/cli/test_adapters.py::test_an_operator_registers_shows_and_removes_an_adapter"
OF_TEMPLATES = "tests/cli/test_templates.py::test_a_template_is_added_with_a_caption"
OF_TRACES = "tests/e2e/operators/test_operations.py::test_the_command_for_traces_sends_those_of_a_real_server"
STARTED = "tests/e2e/operators/test_operations.py::test_a_server_without_a_configuration_picks_a_port_and_is_stopped"

# Run: each by a test that reads the page or has the command's own words. What stands in capitals is the reader's.
RUN: dict[str, str] = {
    **dict.fromkeys(run_on_a_server(), ON_THE_SERVER),
    **dict.fromkeys(in_blocks((ROOT / "docs" / "workflows.md").read_text(), ("console",)), CONSOLE),
    "lego-serve serve": STARTED,
    "lego-serve serve [CONFIG] [--port PORT]": STARTED,
    "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 lego-serve serve config.yaml": OF_TRACES,
    **dict.fromkeys(
        (
            "lego-serve jobs",
            "lego-serve cancel ID",
            "lego-serve pause ID",
            "lego-serve resume ID",
            "lego-serve replicas",
            "lego-serve drain ID",
            "lego-serve scale",
            "lego-serve scale NODE 2-4",
            "lego-serve scale NODE --unpin",
        ),
        OPERATORS,
    ),
    "lego-serve jobs --url $URL": "tests/cli/test_main.py::test_an_operator_sees_a_job_and_cancels_it",
    "lego-serve scale MODEL.NODE NUMBER --url $URL": (
        "tests/cli/test_scale.py::test_a_node_is_pinned_listed_and_unpinned"
    ),
    "lego-serve jobs list": "tests/cli/test_jobs.py::test_jobs_are_listed_newest_first_and_shown",
    "lego-serve jobs cancel ID": "tests/cli/test_jobs.py::test_a_job_is_cancelled",
    "lego-serve adapters show": OF_ADAPTERS,
    "lego-serve adapters show ID": OF_ADAPTERS,
    "lego-serve adapters register ID PATH": OF_ADAPTERS,
    "lego-serve adapters remove ID": OF_ADAPTERS,
    "lego-serve adapters profile ID": (
        "tests/cli/test_adapters.py::test_a_profile_says_how_many_steps_may_pass_without_an_adapter"
    ),
    "lego-serve templates list": "tests/cli/test_templates.py::test_a_template_is_added_listed_warmed_and_removed",
    "lego-serve templates add FILE --warm": OF_TEMPLATES,
    "lego-serve workflows validate FILE": "tests/cli/test_workflows.py::test_a_right_file_is_told_with_its_hash",
    "lego-serve workflows import FILE.json": (
        "tests/cli/test_import_workflow.py::test_without_a_file_it_goes_to_stdout"
    ),
    "lego-serve workflows import FILE.json -o OUT.yaml": (
        "tests/cli/test_import_workflow.py::test_what_is_written_is_valid"
    ),
    "lego-serve tune quality --samples FILE": "tests/cli/test_tune.py::test_a_model_is_tuned_and_measured",
    "lego-serve cluster rotate-links CONFIG": (
        "tests/cluster/test_link_secret.py::test_links_have_a_new_secret_beside_the_last_one"
    ),
    "lego-serve health": "tests/test_container.py::test_the_health_check_tells_ready_from_not",
    'printf %s "$KEY" | sha256sum': "tests/test_docs.py::test_the_command_for_a_key_that_exists_prints_its_digest",
    "python3 -c 'import hashlib, secrets; k = secrets.token_urlsafe(32); "
    'print("key: ", k); print("sha256:", hashlib.sha256(k.encode()).hexdigest())\'': (
        "tests/test_docs.py::test_the_command_for_keys_makes_a_key_and_its_digest"
    ),
    "python -m lego_serve.configuration.docs > docs/configuration.md": (
        "tests/test_docs.py::test_the_configuration_page_is_the_generated_one"
    ),
}

# Read, not run: tests/cli/test_documented_commands.py holds every word against the program. By how commands begin.
READ: dict[str, str] = {
    "lego-serve adapters register studio-anime": "needs the reader's file",
    "lego-serve adapters register also-mine": "needs the reader's file",
    'lego-serve generate "a large red circle on the left, blue background" --lora mine:0.8': "needs the reader's file",
    'lego-serve generate "a large red circle on the left, blue background" --model postcard': (
        "needs a server of the page's configuration, which tests/test_readme.py loads"
    ),
    'lego-serve generate "a large red circle, blue background" --controlnet': "needs the reader's map",
    "lego-serve jobs list --status queued": "run with another status by tests/test_readme.py",
    "lego-serve scale shared.workers 3": "run with another node by tests/cli/test_scale.py",
    "lego-serve serve CONFIG": "run with each file that a test of tests/e2e writes",
    "lego-serve serve config.yaml": "run with each file that a test of tests/e2e writes",
    "lego-serve serve configs/sd35-medium.yaml": "needs weights of gigabytes and a GPU",
    "lego-serve serve configs/tiny.yaml": "the file of a server without one, which is run",
    "lego-serve simulate": "run on a short trace by tests/cli/test_simulate.py; the page's takes minutes",
    "lego-serve tune": "run on a miniature by tests/cli/test_tune.py and its neighbour; the pages' take hours",
    "lego-serve edit": "a name without its arguments",
    "lego-serve node": "needs a Ray of several machines, which tests/e2e/cluster starts with it as root",
    "lego-serve gateway": "needs a Ray that is there; tests/cluster/test_gateways.py runs it where none is",
    "lego-serve cluster serve-config": "tests/support/cluster/nodes.py sends what it prints to a Ray of machines",
    "lego-serve workflows": "a name without its arguments",
    "ray start": "needs a second machine or a Ray of one's own; tests/e2e/cluster starts machines of namespaces so",
    "make": "what each target does takes minutes to hours",
    "pip install 'lego_serve[": "fetches packages: what the extra is, is read",
    "pip install --constraint": "fetches packages; tests/deploy/test_wheel.py installs the wheel",
    "python -m benchmarks": "measures for minutes to hours; tests/benchmarks runs the parts",
    "python -m lego_serve.zoo": "trains or judges for minutes to hours; tests/zoo runs the parts",
    "python -m loadgen": "measures for minutes; tests/loadgen runs the commands on servers of virtual time",
    "python -m deploy.generate": "writes into the repository; tests/deploy compares its files with what it makes",
    "python -m pytest": "runs tests within tests: that its paths exist is read",
    "python kernels/ahead.py": "compiles for minutes; tests/kernels/test_ahead.py runs its parts",
}

# Of others' programs: that the repository's files among their words exist is read, no more.
FOREIGN: dict[str, str] = {
    "aiperf profile": "needs an environment of its own; tests/loadgen/traces/test_aiperf.py replays traces in one",
    "apt-get install": "changes the machine",
    "cp": "copies the reader's file",
    "docker": "needs a Docker daemon; tests/e2e/cluster runs the images and the compose file without one",
    "export RAY_": "sets variables of the reader's shell; tests/support/cluster/nodes.py sets them",
    "git add": "commits to the reader's repository",
    "kubectl": "needs a Kubernetes; tests/e2e/cluster runs the manifests' pods without one",
    "pip install pre-commit": "fetches packages",
    "ray serve": "needs a Kubernetes, in whose pods it is typed",
    "serve deploy": "needs a Ray that is there; tests/support/cluster/nodes.py sends the same by HTTP",
}


def decision(command: str) -> str | None:
    """The test that runs a command, or why none does; None where nobody has decided."""
    if command in RUN:
        return RUN[command]
    known = READ | FOREIGN
    begins = [begin for begin in known if command == begin or command.startswith((f"{begin} ", f"{begin}."))]
    begins += [begin for begin in known if begin.endswith(("[", "_")) and command.startswith(begin)]
    return known[max(begins, key=len)] if begins else None
