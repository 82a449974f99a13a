"""Names of spans' attributes.

Those of OpenTelemetry's conventions for generative AI are in development and may change: no other file has them.
"""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
OUTPUT_TYPE = "gen_ai.output.type"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_CHOICES = "gen_ai.request.choice.count"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FIRST_CHUNK_S = "gen_ai.response.time_to_first_chunk"
ERROR_TYPE = "error.type"
URL_QUERY = "url.query"

GENERATE, LEGO_SERVE, IMAGE = "generate_content", "lego_serve", "image"  # no operation of images alone is defined

TENANT = "lego_serve.tenant"
NODE = "lego_serve.node.name"
NODE_KIND = "lego_serve.node.kind"
NODE_MODEL = "lego_serve.node.model"
QUEUE_S = "lego_serve.node.queue_s"
RUN_S = "lego_serve.node.run_s"
CACHE_HIT = "lego_serve.node.cache_hit"
BATCH_SIZE = "lego_serve.node.batch_size"
ATTEMPTS = "lego_serve.node.attempts"
STEP_S = "lego_serve.node.step_s"
STEP_LANES = "lego_serve.node.step_lanes"
STEPS_REDONE = "lego_serve.node.steps_redone"
