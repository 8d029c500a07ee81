package nacos;

import com.alibaba.nacos.auth.config.AuthConfigs;
import com.alibaba.nacos.core.code.ControllerMethodsCache;
import com.alibaba.nacos.naming.NamingApp;
import java.io.IOException;
import java.net.ServerSocket;
import java.nio.file.Path;
import java.util.concurrent.ThreadLocalRandom;
import org.springframework.boot.SpringApplication;
import org.springframework.context.ConfigurableApplicationContext;
import peer.Peer;

/** Nacos's naming server, alone and without log-in. */
public final class NacosPeer {
    private static ConfigurableApplicationContext context;

    private NacosPeer() {}

    /**
     * A port that is free, and so are those for gRPC and for Raft that go with it. It takes the last
     * of them many seconds later, so that none is one that the kernel gives to others meanwhile.
     */
    private static int freePort() {
        for (;;) {
            int port = ThreadLocalRandom.current().nextInt(11_000, 31_000);
            boolean free = true;
            for (int other : new int[] {port, port + 1000, port + 1001, port - 1000}) {
                try (ServerSocket socket = new ServerSocket(other)) {
                    free &= socket.isBound();
                } catch (IOException taken) {
                    free = false;
                }
            }
            if (free) {
                return port;
            }
        }
    }

    private static int start(int port) {
        int chosen = port == 0 ? freePort() : port;
        System.setProperty("server.port", String.valueOf(chosen));
        context = SpringApplication.run(
            new Class<?>[] {NamingApp.class, AuthConfigs.class}, new String[0]);
        // The console does this otherwise; without, the HTTP interface answers 501.
        context.getBean(ControllerMethodsCache.class)
            .initClassMethod("com.alibaba.nacos.naming.controllers");
        return chosen;
    }

    public static void main(String[] words) throws Exception {
        System.setProperty("nacos.standalone", "true");
        System.setProperty("nacos.home", Path.of("").toAbsolutePath().toString());
        System.setProperty("nacos.core.auth.enabled", "false");
        System.setProperty("server.address", "127.0.0.1");
        // Spring's own log-in would stand before the HTTP interface.
        String security = "org.springframework.boot.%sautoconfigure.security.servlet.%s";
        System.setProperty("spring.autoconfigure.exclude", String.join(",",
            security.formatted("", "SecurityAutoConfiguration"),
            security.formatted("actuate.", "ManagementWebSecurityAutoConfiguration")));
        new Peer(error -> null)
            .on("start", arguments -> start(arguments.number("port", 0)))
            .on("stop", arguments -> {
                context.close();
                return "stopped";
            })
            .run();
    }
}
