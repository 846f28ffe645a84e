# SPDX-License-Identifier: Apache-2.0
"""A gRPC server for tests: prints its port, ends with its standard input."""

import sys
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-length", str(len(request))),))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return request


def both(requests, context):
    count = 0
    for request in requests:
        count += 1
        yield request
    context.set_trailing_metadata((("x-count", str(count)),))


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/test.Echo/Unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        if details.method == "/test.Echo/Both":
            return grpc.stream_stream_rpc_method_handler(both)
        return None


def main():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((Handler(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0).wait()


if __name__ == "__main__":
    main()
