package sofa;

import com.alipay.remoting.BizContext;
import com.alipay.remoting.CustomSerializerManager;
import com.alipay.remoting.DefaultCustomSerializer;
import com.alipay.remoting.InvokeCallback;
import com.alipay.remoting.InvokeContext;
import com.alipay.remoting.exception.RemotingException;
import com.alipay.remoting.rpc.RequestCommand;
import com.alipay.remoting.rpc.RpcClient;
import com.alipay.remoting.rpc.RpcServer;
import com.alipay.remoting.rpc.protocol.RpcRequestCommand;
import com.alipay.remoting.rpc.protocol.SyncUserProcessor;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import peer.BaseEcho;
import peer.Peer;

/** SOFABolt without SOFARPC: server and client of both versions of the protocol. */
final class BoltPeer {
    /** Longer than anything takes. */
    private static final int PATIENCE_MS = 40_000;

    /** By address, version and ver1: a client keeps one connection for each address. */
    private static final Map<String, RpcClient> CLIENTS = new HashMap<>();

    /** As many as there are calls: some wait for the others. */
    private static final Executor THREADS = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    });

    static {
        CustomSerializerManager.registerCustomSerializer(
            Message.class.getName(), new ServiceHeader());
    }

    private BoltPeer() {}

    /** What is sent. */
    public static final class Message implements Serializable {
        private static final long serialVersionUID = 1L;

        /** The header {@code service}; none when empty. */
        String service;
        String method;
        String text;

        Message(String service, String method, String text) {
            this.service = service;
            this.method = method;
            this.text = text;
        }
    }

    /** {@code bolt-serve}: the port. */
    static Object serve(Peer.Arguments arguments) throws Exception {
        RpcServer server = new RpcServer("127.0.0.1", Peer.freePort());
        server.registerUserProcessor(new Processor(server));
        server.startup();
        return server.port();
    }

    /**
     * {@code bolt-call to=host:port version=2 ver1=2 crc=on kind=sync method=say text=...}: what
     * the server returns.
     */
    static Object call(Peer.Arguments arguments) throws Exception {
        String address = address(arguments);
        RpcClient client = client(address);
        Message message = new Message(
            arguments.text("service", ""),
            arguments.text("method", "say"),
            arguments.text("text", "hello"));
        int timeout = arguments.number("timeout", PATIENCE_MS);
        InvokeContext context = context(arguments);
        String kind = arguments.text("kind", "sync");
        return switch (kind) {
            case "sync" -> client.invokeSync(address, message, context, timeout);
            case "future" -> client.invokeWithFuture(address, message, context, timeout).get();
            case "callback" -> {
                CompletableFuture<Object> answer = new CompletableFuture<>();
                client.invokeWithCallback(
                    address, message, context, completing(answer), timeout);
                yield answer.get(PATIENCE_MS, TimeUnit.MILLISECONDS);
            }
            case "oneway" -> {
                client.oneway(address, message, context);
                yield "sent";
            }
            default -> throw new IllegalArgumentException(kind);
        };
    }

    /** {@code bolt-many to=... count=1000}: as {@code many}. */
    static Object many(Peer.Arguments arguments) throws Exception {
        int count = arguments.number("count", 1000);
        String address = address(arguments);
        RpcClient client = client(address);
        List<CompletableFuture<Object>> answers = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            Message message =
                new Message(arguments.text("service", ""), "rally", String.valueOf(count));
            CompletableFuture<Object> answer = new CompletableFuture<>();
            client.invokeWithCallback(
                address, message, context(arguments), completing(answer), PATIENCE_MS);
            answers.add(answer);
        }
        int good = 0;
        for (CompletableFuture<Object> answer : answers) {
            Object value = answer.get(PATIENCE_MS, TimeUnit.MILLISECONDS);
            good += String.valueOf(count).equals(value) ? 1 : 0;
        }
        return good;
    }

    private static String address(Peer.Arguments arguments) {
        return arguments.text("to") + "?_CONNECTTIMEOUT=" + PATIENCE_MS
            + "&_PROTOCOL=" + arguments.text("version", "1")
            + "&_VERSION=" + arguments.text("ver1", "1");
    }

    private static RpcClient client(String address) {
        return CLIENTS.computeIfAbsent(address, ignored -> {
            RpcClient client = new RpcClient();
            client.registerUserProcessor(new Processor(null));
            client.startup();
            return client;
        });
    }

    private static InvokeContext context(Peer.Arguments arguments) {
        InvokeContext context = new InvokeContext();
        context.put(
            InvokeContext.BOLT_CRC_SWITCH, arguments.text("crc", "on").equals("on"));
        return context;
    }

    private static InvokeCallback completing(CompletableFuture<Object> answer) {
        return new InvokeCallback() {
            @Override
            public void onResponse(Object value) {
                answer.complete(value);
            }

            @Override
            public void onException(Throwable error) {
                answer.completeExceptionally(error);
            }

            @Override
            public Executor getExecutor() {
                return null;
            }
        };
    }

    /** Answers a {@link Message} like {@link peer.Echo}; on either side of a connection. */
    private static final class Processor extends SyncUserProcessor<Message> {
        private final RpcServer server;
        private final BaseEcho echo = new BaseEcho() {
            @Override
            public String header(String name) {
                throw new UnsupportedOperationException();
            }
        };

        Processor(RpcServer server) {
            this.server = server;
        }

        @Override
        public Object handleRequest(BizContext context, Message message) throws Exception {
            return switch (message.method) {
                case "say" -> echo.say(message.text);
                case "slow" -> echo.slow(message.text);
                case "fail" -> echo.fail(message.text);
                case "note" -> echo.note(message.text);
                case "rally" -> echo.rally(message.text);
                case "back" -> back(context, message);
                default -> throw new IllegalArgumentException(message.method);
            };
        }

        /** What the client answers to the same. */
        private Object back(BizContext context, Message message)
            throws RemotingException, InterruptedException {
            Message question = new Message(message.service, "say", message.text);
            return server.invokeSync(context.getConnection(), question, PATIENCE_MS);
        }

        @Override
        public String interest() {
            return Message.class.getName();
        }

        @Override
        public Executor getExecutor() {
            return THREADS;
        }
    }

    /** Puts the service where SOFARPC puts it. */
    private static final class ServiceHeader extends DefaultCustomSerializer {
        @Override
        public <T extends RequestCommand> boolean serializeHeader(
            T request, InvokeContext context) {
            Message message = (Message) ((RpcRequestCommand) request).getRequestObject();
            if (message.service.isEmpty()) {
                return false;
            }
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            DataOutputStream out = new DataOutputStream(bytes);
            try {
                for (String word : List.of("service", message.service)) {
                    byte[] text = word.getBytes(StandardCharsets.UTF_8);
                    out.writeInt(text.length);
                    out.write(text);
                }
            } catch (IOException impossible) {
                throw new IllegalStateException(impossible);
            }
            request.setHeader(bytes.toByteArray());
            return true;
        }
    }
}
