package peer;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/**
 * A program that does what it is told: each line of standard input is a command, {@code name
 * key=value ...}, and is answered with one line of JSON, {@code {"value": ...}} or {@code {"error":
 * class, "code": ..., "message": ...}}. The end of the input is the end of the program.
 */
public final class Peer {
    /** What a command does. */
    public interface Command {
        /** The value of a command: a string, a number, a list or a map. */
        Object run(Arguments arguments) throws Throwable;
    }

    /** How a library classifies its exceptions; null when it does not know this one. */
    public interface Codes {
        /** The name of the exception's code. */
        String of(Throwable error);
    }

    /** The arguments of a command. */
    public static final class Arguments {
        private final Map<String, String> words = new LinkedHashMap<>();

        /** The argument of that name, which must be there. */
        public String text(String name) {
            String value = words.get(name);
            if (value == null) {
                throw new IllegalArgumentException("no argument " + name);
            }
            return value;
        }

        /** The argument of that name, or what stands for it. */
        public String text(String name, String otherwise) {
            return words.getOrDefault(name, otherwise);
        }

        /** Nothing, and then each of the words of that name, which have commas between them. */
        public List<String> alternatives(String name) {
            List<String> all = new ArrayList<>(List.of(""));
            if (words.containsKey(name)) {
                all.addAll(List.of(words.get(name).split(",")));
            }
            return all;
        }

        /** The number of that name. */
        public int number(String name, int otherwise) {
            String value = words.get(name);
            return value == null ? otherwise : Integer.parseInt(value);
        }
    }

    private final Map<String, Command> commands = new LinkedHashMap<>();
    private final Codes codes;

    public Peer(Codes codes) {
        this.codes = codes;
    }

    /** One more command. */
    public Peer on(String name, Command command) {
        commands.put(name, command);
        return this;
    }

    /** Serves until the end of the input, then ends the program. */
    public void run() throws IOException {
        PrintStream answers = System.out;
        // What libraries print is no answer.
        System.setOut(System.err);
        BufferedReader lines =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            StringBuilder json = new StringBuilder();
            write(answer(line), json);
            answers.println(json);
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private Map<String, Object> answer(String line) {
        Map<String, Object> answer = new LinkedHashMap<>();
        try {
            String[] words = line.trim().split(" +");
            Command command = commands.get(words[0]);
            if (command == null) {
                throw new IllegalArgumentException("no command " + words[0]);
            }
            Arguments arguments = new Arguments();
            for (int i = 1; i < words.length; i++) {
                int equals = words[i].indexOf('=');
                arguments.words.put(words[i].substring(0, equals), words[i].substring(equals + 1));
            }
            answer.put("value", command.run(arguments));
        } catch (Throwable thrown) {
            Throwable error = thrown;
            while (error.getCause() != null
                && (error instanceof ExecutionException || error instanceof CompletionException)) {
                error = error.getCause();
            }
            answer.clear();
            answer.put("error", error.getClass().getName());
            answer.put("code", codes.of(error));
            answer.put("message", String.valueOf(error.getMessage()));
            List<String> causes = new ArrayList<>();
            for (Throwable at = error.getCause(); at != null; at = at.getCause()) {
                causes.add(at.getClass().getName());
            }
            answer.put("causes", causes);
            error.printStackTrace();
        }
        return answer;
    }

    /** A port that is free: these libraries do not tell which one the kernel chose. */
    public static int freePort() throws IOException {
        try (ServerSocket socket = new ServerSocket(0)) {
            return socket.getLocalPort();
        }
    }

    private static void write(Object value, StringBuilder out) {
        if (value == null || value instanceof Number || value instanceof Boolean) {
            out.append(value);
        } else if (value instanceof Map<?, ?> map) {
            String before = "{";
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                out.append(before);
                write(String.valueOf(entry.getKey()), out);
                out.append(':');
                write(entry.getValue(), out);
                before = ",";
            }
            out.append(map.isEmpty() ? "{}" : "}");
        } else if (value instanceof List<?> list) {
            out.append('[');
            for (int i = 0; i < list.size(); i++) {
                out.append(i == 0 ? "" : ",");
                write(list.get(i), out);
            }
            out.append(']');
        } else {
            out.append('"');
            for (char unit : value.toString().toCharArray()) {
                if (unit < ' ' || unit == '"' || unit == '\\' || unit > '~') {
                    out.append(String.format("\\u%04x", (int) unit));
                } else {
                    out.append(unit);
                }
            }
            out.append('"');
        }
    }
}
