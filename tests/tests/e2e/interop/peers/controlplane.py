"""A management server on gRPC's own stubs that does what it is told, also what no server should do.

Each line of standard input is a command, a word and a JSON object, answered with one line of JSON,
{"value": ...} or {"error": ...}. By itself it serves one snapshot to all clients, as the protocol
says; of a type that is held it says nothing but what `send` makes it say, message by message or byte
by byte. All that goes over a stream, either way, is an event.
"""

import concurrent.futures
import hashlib
import importlib
import json
import pkgutil
import queue
import socket
import sys
import threading

import grpc
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from envoy.service.discovery.v3 import discovery_pb2

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
SRDS = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
VHDS = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
SDS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
RTDS = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
ECDS = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"

# Make before break: what is referred to goes first.
ORDER = [SDS, CDS, EDS, LDS, SRDS, RDS, VHDS, ECDS, RTDS]

# Method to the type of its stream; None for all types at once.
METHODS = {
    "envoy.service.discovery.v3.AggregatedDiscoveryService/{}AggregatedResources": None,
    "envoy.service.cluster.v3.ClusterDiscoveryService/{}Clusters": CDS,
    "envoy.service.endpoint.v3.EndpointDiscoveryService/{}Endpoints": EDS,
    "envoy.service.listener.v3.ListenerDiscoveryService/{}Listeners": LDS,
    "envoy.service.route.v3.RouteDiscoveryService/{}Routes": RDS,
    "envoy.service.route.v3.ScopedRoutesDiscoveryService/{}ScopedRoutes": SRDS,
    "envoy.service.route.v3.VirtualHostDiscoveryService/{}VirtualHosts": VHDS,
    "envoy.service.secret.v3.SecretDiscoveryService/{}Secrets": SDS,
    "envoy.service.runtime.v3.RuntimeDiscoveryService/{}Runtime": RTDS,
    "envoy.service.extension.v3.ExtensionConfigDiscoveryService/{}ExtensionConfigs": ECDS,
}

# Envoy asks for all scopes, and for all virtual hosts, without a name, too.
WILDCARDS = (CDS, LDS, SRDS, VHDS)

# Streams at once; each takes a thread.
STREAMS_MAX = 200


class Kind:
    """One type on one stream."""

    def __init__(self):
        self.names = []
        self.named = False
        self.wildcard = False
        self.nonce = ""
        # What the last response said: its version, and the versions of resources by name.
        self.version = None
        self.known = {}
        self.answered = False
        # Names whose last request was to be answered whatever is known of them.
        self.again = []


class Stream:
    def __init__(self, number, is_delta, kind):
        self.number = number
        self.is_delta = is_delta
        self.type = kind
        self.client = ""
        self.kinds = {}
        self.nonces = 0
        # Bytes of messages to be sent; a status ends the stream.
        self.out = queue.SimpleQueue()
        self.open = True


class Events:
    def __init__(self):
        self.all = []
        self.changed = threading.Condition()

    def add(self, event):
        with self.changed:
            self.all.append(event)
            self.changed.notify_all()

    def after(self, start, wait):
        with self.changed:
            self.changed.wait_for(lambda: len(self.all) > start, timeout=wait)
            return self.all[start:]


# One lock for all state: messages are handled one after the other.
lock = threading.RLock()
events = Events()
streams = []
held = set()
hold_all = False
# By type, a version and resources by name, each a pair of bytes and version.
store = {}
server = None
relay = None


def message_class(name):
    """The class of a message type; its package's modules are imported when first needed."""
    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName(name)
    except KeyError:
        package = importlib.import_module(name.rpartition(".")[0])
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.endswith("_pb2"):
                importlib.import_module(f"{package.__name__}.{module.name}")
        descriptor = pool.FindMessageTypeByName(name)
    return message_factory.GetMessageClass(descriptor)


def learn_types(value):
    if isinstance(value, dict):
        if "@type" in value:
            message_class(value["@type"].rpartition("/")[2])
        for one in value.values():
            learn_types(one)
    elif isinstance(value, list):
        for one in value:
            learn_types(one)


def parse(value, message):
    learn_types(value)
    return json_format.ParseDict(value, message)


def name_of(message):
    return message.cluster_name if hasattr(message, "cluster_name") else message.name


def digest(data):
    return hashlib.sha256(data).hexdigest()[:12]


# What clients ask.


def handle(request_iterator, context, method, is_delta, kind):
    """Serves a stream until either side ends it."""
    with lock:
        stream = Stream(len(streams) + 1, is_delta, kind)
        streams.append(stream)
        metadata = {one.key: str(one.value) for one in context.invocation_metadata()}
        note(stream, "open", method=f"/{method}", metadata=metadata)

    def read():
        try:
            for request in request_iterator:
                with lock:
                    on_request(stream, request)
        except Exception as error:  # However it ends, it is over.
            stream.out.put(grpc.RpcError(repr(error)))
        else:
            stream.out.put(None)

    threading.Thread(target=read, daemon=True).start()
    ending = ""
    try:
        while True:
            item = stream.out.get()
            if isinstance(item, bytes):
                yield item
            elif isinstance(item, tuple):
                ending = item[0].name
                context.abort(*item)
            else:
                ending = repr(item)
                return
    finally:
        with lock:
            stream.open = False
            note(stream, "close", error=ending)


def note(stream, what, **event):
    event.update(event=what, stream=stream.number, client=stream.client)
    events.add(event)


def on_request(stream, request):
    event = {"type": request.type_url or stream.type, "nonce": request.response_nonce}
    if request.HasField("node"):
        stream.client = request.node.id
        event["node_hash"] = digest(request.node.SerializeToString(deterministic=True))
        # Hundreds, of no interest.
        del request.node.extensions[:]
        event["node"] = json_format.MessageToDict(request.node, preserving_proto_field_name=True)
    if request.HasField("error_detail"):
        detail = request.error_detail
        event["error"] = {"code": detail.code, "message": detail.message}
    if stream.is_delta:
        event["subscribe"] = list(request.resource_names_subscribe)
        event["unsubscribe"] = list(request.resource_names_unsubscribe)
        event["initial"] = dict(request.initial_resource_versions)
    else:
        event["version"] = request.version_info
        event["names"] = list(request.resource_names)
    note(stream, "request", **event)
    if stream.is_delta:
        on_delta(stream, event)
    else:
        on_sotw(stream, event)


def on_sotw(stream, event):
    name = event["type"]
    kind = stream.kinds.get(name)
    if kind is None:
        kind = stream.kinds[name] = Kind()
    elif event["nonce"] != kind.nonce:
        # It crossed a response; the answer to that says it all again.
        return
    names = event["names"]
    repeated = kind.version is not None and kind.answered and set(names) == set(kind.names)
    kind.answered = True
    kind.named = kind.named or bool(names)
    kind.wildcard = "*" in names or (name in WILDCARDS and not kind.named)
    kind.names = names
    if not kind.wildcard:
        kind.known = {one: version for one, version in kind.known.items() if one in names}
    # A client that repeats itself is warming something, and waits for an answer.
    kind.again = names if repeated and "error" not in event else []
    push(stream, name)


def on_delta(stream, event):
    name = event["type"]
    kind = stream.kinds.get(name)
    subscribe, unsubscribe = event["subscribe"], event["unsubscribe"]
    if kind is None:
        kind = stream.kinds[name] = Kind()
        kind.known = dict(event["initial"])
        kind.wildcard = name in WILDCARDS and not subscribe
    if "*" in subscribe:
        kind.wildcard = True
    if "*" in unsubscribe:
        kind.wildcard = False
    for one in unsubscribe:
        if one in kind.names:
            kind.names.remove(one)
        if kind.wildcard:
            kind.again.append(one)
        else:
            kind.known.pop(one, None)
    for one in subscribe:
        if one != "*":
            if one not in kind.names:
                kind.names.append(one)
            kind.again.append(one)
    push(stream, name)


# What the server says by itself.


def push(stream, name):
    """Sends what the client does not know yet, if it is something."""
    kind = stream.kinds.get(name)
    if kind is None or name not in store or name in held or hold_all or not stream.open:
        return
    version, resources = store[name]
    if stream.is_delta:
        push_delta(stream, name, kind, version, resources)
    else:
        push_sotw(stream, name, kind, version, resources)


def push_sotw(stream, name, kind, version, resources):
    names = list(resources) if kind.wildcard else [one for one in kind.names if one in resources]
    is_news = kind.version != version and (names or kind.wildcard)
    is_more = any(one not in kind.known for one in names)
    if not (is_news or is_more or (kind.again and names)):
        return
    kind.again = []
    response = discovery_pb2.DiscoveryResponse(version_info=version, type_url=name)
    for one in names:
        response.resources.append(any_pb2.Any(type_url=name, value=resources[one][0]))
    kind.known = {one: resources[one][1] for one in names}
    say(stream, name, response)


def push_delta(stream, name, kind, version, resources):
    response = discovery_pb2.DeltaDiscoveryResponse(system_version_info=version, type_url=name)
    wanted = set(kind.names)
    if name == VHDS:
        # A name without a slash stands for all virtual hosts of that route configuration.
        wanted = {one for one in {*resources, *kind.known, *kind.names} if "/" in one}
        wanted = {one for one in wanted if one in kind.names or one.rpartition("/")[0] in kind.names}
        kind.again = [one for one in kind.again if "/" in one]
    if kind.wildcard:
        wanted.update(resources, kind.known)
    for one in list(resources):
        data, its_version = resources[one]
        if one in kind.again or (one in wanted and kind.known.get(one) != its_version):
            wrapper = response.resources.add(name=one, version=its_version)
            wrapper.resource.CopyFrom(any_pb2.Any(type_url=name, value=data))
            if one in wanted:
                kind.known[one] = its_version
    for one in sorted(wanted.union(kind.again).difference(resources)):
        if one in kind.known or one in kind.again:
            response.removed_resources.append(one)
            kind.known.pop(one, None)
    kind.again = []
    is_first = (kind.wildcard or name == VHDS) and kind.version is None
    if response.resources or response.removed_resources or is_first:
        say(stream, name, response)


def say(stream, name, response):
    """Sends a message, and keeps in mind what its answer refers to."""
    if not response.nonce:
        stream.nonces += 1
        response.nonce = f"{stream.number}-{stream.nonces}"
    event = {"type": name, "nonce": response.nonce}
    if stream.is_delta:
        event["version"] = response.system_version_info
        event["names"] = [one.name for one in response.resources]
        event["removed"] = list(response.removed_resources)
    else:
        event["version"] = response.version_info
        event["names"] = [any_name(one) for one in response.resources]
    # What is sent of a type that was not asked for has no answer to wait for.
    kind = stream.kinds.get(name)
    if kind is not None:
        kind.nonce, kind.version, kind.answered = response.nonce, event["version"], False
    note(stream, "response", **event)
    stream.out.put(response.SerializeToString())
    return response.nonce


def any_name(resource):
    try:
        message = message_class(resource.type_url.rpartition("/")[2])()
        message.ParseFromString(resource.value)
        return name_of(message)
    except Exception:  # There are all kinds of bad resources.
        return ""


# Commands.


def start(address="127.0.0.1:0", certificate=None, key=None, through_relay=False, **_ignored):
    """Its port; 0 for a Unix socket. Through the relay, connections can be hurt."""
    global server, relay
    if server is not None:
        raise RuntimeError("it runs")
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    workers = concurrent.futures.ThreadPoolExecutor(STREAMS_MAX)
    starting = grpc.server(workers, options=options)
    for pattern, kind in METHODS.items():
        for variant, request in (
            ("Stream", discovery_pb2.DiscoveryRequest),
            ("Delta", discovery_pb2.DeltaDiscoveryRequest),
        ):
            add_method(starting, pattern.format(variant), variant == "Delta", kind, request)
    inner = "127.0.0.1:0" if through_relay else address
    if certificate:
        credentials = grpc.ssl_server_credentials([(key.encode(), certificate.encode())])
        port = starting.add_secure_port(inner, credentials)
    else:
        port = starting.add_insecure_port(inner)
    starting.start()
    server = starting
    if through_relay:
        relay = Relay(address, port)
        port = relay.port
    return 0 if address.startswith("unix:") else port


def add_method(starting, path, is_delta, kind, request):
    service, _, method = path.partition("/")

    def behaviour(request_iterator, context):
        return handle(request_iterator, context, path, is_delta, kind)

    handler = grpc.stream_stream_rpc_method_handler(
        behaviour, request_deserializer=request.FromString, response_serializer=None
    )
    generic = grpc.method_handlers_generic_handler(service, {method: handler})
    starting.add_generic_rpc_handlers((generic,))


def stop():
    """Every connection ends at once."""
    global server, relay
    if relay is not None:
        relay.close()
        relay = None
    stopping, server = server.stop(None), None
    # Their threads wait for something to send.
    with lock:
        for stream in streams:
            stream.out.put(None)
    stopping.wait()
    return True


def set_(resources, versions):
    """What there is of these types from now on. Types that are not named stay as they are."""
    with lock:
        for name, listed in resources.items():
            found = {}
            for value in listed:
                message = parse(value, message_class(name.rpartition("/")[2])())
                data = message.SerializeToString(deterministic=True)
                found[name_of(message)] = (data, digest(data))
            store[name] = (versions[name], found)
        push_all()
    return True


def push_all():
    for stream in streams:
        for name in ORDER:
            push(stream, name)


def hold(types=None):
    """Nothing of these types, or of any, is sent but by `send`."""
    global hold_all
    with lock:
        held.update(types or [])
        hold_all = hold_all or types is None
    return True


def release(types=None):
    global hold_all
    with lock:
        hold_all = hold_all and types is not None
        held.difference_update(held if types is None else types)
        push_all()
    return True


def send(type="", response=None, raw=None, hex=None, times=1, **where):
    """A message of its own, on the newest stream that asked for the type, or the one that is named:
    as JSON, with `raw` resources as pairs of type and hexadecimal value, or all of it as hexadecimal.
    Its nonces."""
    with lock:
        stream = find(type, **where)
        if hex is not None:
            note(stream, "response", type=type, nonce="", version="", names=[])
            stream.out.put(bytes.fromhex(hex))
            return []
        nonces = []
        message = discovery_pb2.DeltaDiscoveryResponse if stream.is_delta else None
        message = parse(response or {}, (message or discovery_pb2.DiscoveryResponse)())
        for one in raw or []:
            resource = message.resources.add()
            if stream.is_delta:
                resource.name, resource.version = one.get("name", ""), one.get("version", "")
                resource = resource.resource
            resource.type_url, resource.value = one["type"], bytes.fromhex(one["hex"])
        if not message.type_url:
            message.type_url = type
        for _ in range(times):
            nonces.append(say(stream, type, message))
            if times > 1:
                message.nonce = ""
        return nonces


def close(type="", status="UNAVAILABLE", details="", **where):
    """Ends the stream of a type."""
    with lock:
        stream = find(type, **where)
        code = grpc.StatusCode[status]
        stream.out.put(None if code is grpc.StatusCode.OK else (code, details))
    return stream.number


def find(type, stream=None, client=None):
    for one in reversed(streams):
        if not one.open or (client is not None and one.client != client):
            continue
        if one.number == stream or (stream is None and (not type or type in one.kinds)):
            return one
    raise LookupError("no such stream")


def hurt(**how):
    """What the relay does to connections from now on."""
    relay.hurt(**how)
    return True


def events_(wait_ms=0, **words):
    """Those from a number on; if there are none yet, the next ones, if there are some in time."""
    return events.after(words["from"], wait_ms / 1000)


class Relay:
    """Passes connections on, until it is told to hurt them."""

    def __init__(self, address, target):
        host, _, port = address.rpartition(":")
        self.target = target
        self.listener = socket.create_server((host, int(port)))
        self.port = self.listener.getsockname()[1]
        self.sockets = set()
        # Bytes to clients until all connections are cut.
        self.left = None
        self.refuses = False
        self.flowing = threading.Event()
        self.flowing.set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.refuses:
                client.close()
                continue
            inner = socket.create_connection(("127.0.0.1", self.target))
            self.sockets.update((client, inner))
            threading.Thread(target=self.pass_on, args=(client, inner), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(inner, client, True), daemon=True).start()

    def pass_on(self, source, sink, to_client=False):
        try:
            while data := source.recv(65536):
                self.flowing.wait()
                if to_client and self.left is not None:
                    data = data[: self.left]
                    self.left -= len(data)
                sink.sendall(data)
                if to_client and self.left == 0:
                    self.cut()
        except OSError:
            pass
        self.end(source, sink)

    def end(self, *which):
        for one in which:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.sockets.discard(one)

    def cut(self):
        self.left = None
        self.end(*list(self.sockets))

    def hurt(self, cut_after=None, stall=None, refuse=None):
        if refuse is not None:
            self.refuses = refuse
        if stall is not None:
            (self.flowing.clear if stall else self.flowing.set)()
        if cut_after == 0:
            self.cut()
        elif cut_after is not None:
            self.left = cut_after

    def close(self):
        # Closing it does not wake who accepts.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.flowing.set()
        self.cut()


COMMANDS = {
    "start": start,
    "stop": stop,
    "set": set_,
    "hold": hold,
    "release": release,
    "send": send,
    "close": close,
    "hurt": hurt,
    "events": events_,
}


def main():
    for line in sys.stdin:
        word, _, text = line.strip().partition(" ")
        try:
            answer = {"value": COMMANDS[word](**json.loads(text or "{}"))}
        except Exception as error:  # Whatever it is, it is the answer.
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


main()
