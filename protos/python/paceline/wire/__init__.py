"""What two services must agree on and a .proto can't say."""

import os

# gRPC's C core prints its own lines to standard error, a second voice beside the errors that Paceline words itself.
# It reads this once, when it is loaded. GRPC_VERBOSITY=ERROR brings the lines back.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
