package sofa;

import com.alipay.sofa.rpc.api.future.SofaResponseFuture;
import com.alipay.sofa.rpc.common.RpcConfigs;
import com.alipay.sofa.rpc.common.RpcOptions;
import com.alipay.sofa.rpc.config.ApplicationConfig;
import com.alipay.sofa.rpc.config.ConsumerConfig;
import com.alipay.sofa.rpc.config.ProviderConfig;
import com.alipay.sofa.rpc.config.RegistryConfig;
import com.alipay.sofa.rpc.config.ServerConfig;
import com.alipay.sofa.rpc.context.RpcInvokeContext;
import com.alipay.sofa.rpc.core.exception.RpcErrorType;
import com.alipay.sofa.rpc.core.exception.SofaRpcException;
import com.alipay.sofa.rpc.core.invoke.SofaResponseCallback;
import com.alipay.sofa.rpc.core.request.RequestBase;
import com.alipay.sofa.rpc.core.request.SofaRequest;
import com.alipay.sofa.rpc.core.response.SofaResponse;
import com.alipay.sofa.rpc.filter.Filter;
import com.alipay.sofa.rpc.filter.FilterInvoker;
import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import peer.BaseEcho;
import peer.Echo;
import peer.Notes;
import peer.Peer;

/** SOFARPC over Bolt: provider and consumer. */
public final class SofaPeer {
    /** Longer than anything takes. */
    private static final int PATIENCE_MS = 40_000;

    private static final ApplicationConfig APPLICATION = new ApplicationConfig().setAppName("peer");
    private static final Map<String, Echo> CONSUMERS = new HashMap<>();

    private SofaPeer() {}

    public static void main(String[] args) throws Exception {
        RpcConfigs.putValue(RpcOptions.INVOKE_BAGGAGE_ENABLE, true);
        // After so many milliseconds of silence; three misses end the connection.
        System.setProperty("bolt.tcp.heartbeat.interval", "500");
        new Peer(SofaPeer::code)
            .on("serve", SofaPeer::serve)
            .on("notes", arguments -> Notes.take(arguments.number("count", 1)))
            .on("call", SofaPeer::call)
            .on("many", SofaPeer::many)
            .on("baggage", SofaPeer::baggage)
            .on("bolt-serve", BoltPeer::serve)
            .on("bolt-call", BoltPeer::call)
            .on("bolt-many", BoltPeer::many)
            .run();
    }

    /** {@code serve [uniques=a,b] [registry=http://...] [port=...]}: the port. */
    private static Object serve(Peer.Arguments arguments) throws Exception {
        int port = arguments.number("port", 0);
        ServerConfig server = new ServerConfig()
            .setProtocol("bolt")
            .setHost("127.0.0.1")
            .setPort(port == 0 ? Peer.freePort() : port)
            .setCoreThreads(100)
            .setMaxThreads(1200)
            .setDaemon(true);
        for (String unique : arguments.alternatives("uniques")) {
            ProviderConfig<Echo> provider = new ProviderConfig<Echo>()
                .setApplication(APPLICATION)
                .setInterfaceId(Echo.class.getName())
                .setRef(new SofaEcho())
                .setFilterRef(List.of(new Headers()))
                .setServer(server);
            if (!unique.isEmpty()) {
                provider.setUniqueId(unique);
            }
            String registry = arguments.text("registry", "");
            if (registry.isEmpty()) {
                provider.setRegister(false);
            } else {
                provider.setRegistry(mesh(registry));
            }
            provider.export();
        }
        return server.getPort();
    }

    /** {@code call to=host:port kind=sync method=say text=...}: what the method returns. */
    private static Object call(Peer.Arguments arguments) throws Throwable {
        String kind = arguments.text("kind", "sync");
        CompletableFuture<Object> answer = new CompletableFuture<>();
        if (kind.equals("callback")) {
            RpcInvokeContext.getContext().setResponseCallback(completing(answer));
        }
        String method = arguments.text("method", "say");
        Object value = invoke(consumer(arguments, kind), method, arguments.text("text", "hello"));
        return switch (kind) {
            case "sync" -> value;
            case "oneway" -> "sent";
            case "future" -> SofaResponseFuture.getResponse(PATIENCE_MS, true);
            case "callback" -> answer.get(PATIENCE_MS, TimeUnit.MILLISECONDS);
            default -> throw new IllegalArgumentException(kind);
        };
    }

    /** {@code many to=... count=1000}: how many of so many calls at once went well. */
    private static Object many(Peer.Arguments arguments) throws Throwable {
        int count = arguments.number("count", 1000);
        Echo echo = consumer(arguments, "callback");
        List<CompletableFuture<Object>> answers = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            CompletableFuture<Object> answer = new CompletableFuture<>();
            RpcInvokeContext.getContext().setResponseCallback(completing(answer));
            echo.rally(String.valueOf(count));
            answers.add(answer);
        }
        int good = 0;
        for (CompletableFuture<Object> answer : answers) {
            Object value = answer.get(PATIENCE_MS, TimeUnit.MILLISECONDS);
            good += String.valueOf(count).equals(value) ? 1 : 0;
        }
        return good;
    }

    /** {@code baggage to=... text=...}: a request's baggage as it came back in the response's. */
    private static Object baggage(Peer.Arguments arguments) throws Throwable {
        RpcInvokeContext context = RpcInvokeContext.getContext();
        context.putRequestBaggage("there", arguments.text("text"));
        consumer(arguments, "sync").header("baggage");
        String back = context.getResponseBaggage("back");
        RpcInvokeContext.removeContext();
        return back;
    }

    private static Echo consumer(Peer.Arguments arguments, String kind) {
        String to = arguments.text("to", "");
        String registry = arguments.text("registry", "");
        String unique = arguments.text("unique", "");
        int timeout = arguments.number("timeout", PATIENCE_MS);
        String key = String.join(" ", to, registry, unique, kind, String.valueOf(timeout));
        return CONSUMERS.computeIfAbsent(key, ignored -> {
            ConsumerConfig<Echo> consumer = new ConsumerConfig<Echo>()
                .setApplication(APPLICATION)
                .setInterfaceId(Echo.class.getName())
                .setProtocol("bolt")
                .setInvokeType(kind)
                .setTimeout(timeout)
                .setConnectTimeout(PATIENCE_MS)
                // One after the other would all be the same failure.
                .setRetries(0)
                .setRepeatedReferLimit(-1);
            if (!unique.isEmpty()) {
                consumer.setUniqueId(unique);
            }
            if (registry.isEmpty()) {
                consumer.setDirectUrl("bolt://" + to);
            } else {
                // It subscribes behind our back.
                consumer.setRegistry(mesh(registry)).setAddressWait(PATIENCE_MS);
            }
            return consumer.refer();
        });
    }

    private static RegistryConfig mesh(String address) {
        return new RegistryConfig().setProtocol("mesh").setAddress(address);
    }

    private static SofaResponseCallback<Object> completing(CompletableFuture<Object> answer) {
        return new SofaResponseCallback<>() {
            @Override
            public void onAppResponse(Object value, String method, RequestBase request) {
                answer.complete(value);
            }

            @Override
            public void onAppException(Throwable error, String method, RequestBase request) {
                answer.completeExceptionally(error);
            }

            @Override
            public void onSofaException(
                SofaRpcException error, String method, RequestBase request) {
                answer.completeExceptionally(error);
            }
        };
    }

    private static Object invoke(Echo echo, String method, String text) throws Throwable {
        return switch (method) {
            case "say" -> echo.say(text);
            case "slow" -> echo.slow(text);
            case "fail" -> echo.fail(text);
            case "note" -> echo.note(text);
            case "header" -> echo.header(text);
            case "letters" -> String.valueOf(echo.letters(text)).length();
            default -> throw new IllegalArgumentException(method);
        };
    }

    /** The name of a SOFARPC error type. */
    private static String code(Throwable error) {
        if (!(error instanceof SofaRpcException sofa)) {
            return null;
        }
        for (Field field : RpcErrorType.class.getFields()) {
            try {
                if (field.getInt(null) == sofa.getErrorType()) {
                    return field.getName();
                }
            } catch (IllegalAccessException ignored) {
                // Not one of the numbers.
            }
        }
        return String.valueOf(sofa.getErrorType());
    }

    private static final class SofaEcho extends BaseEcho {
        @Override
        public String header(String name) {
            RpcInvokeContext context = RpcInvokeContext.getContext();
            if (name.equals("baggage")) {
                context.putResponseBaggage("back", context.getRequestBaggage("there"));
                return "";
            }
            return String.valueOf(Headers.SEEN.get().get(name));
        }
    }

    /** Keeps what came beside the arguments for {@link SofaEcho#header}. */
    private static final class Headers extends Filter {
        static final ThreadLocal<Map<String, Object>> SEEN =
            ThreadLocal.withInitial(HashMap::new);

        @Override
        public SofaResponse invoke(FilterInvoker invoker, SofaRequest request)
            throws SofaRpcException {
            Map<String, Object> props = request.getRequestProps();
            SEEN.set(props == null ? Map.of() : props);
            return invoker.invoke(request);
        }
    }
}
