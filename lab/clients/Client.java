import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

/**
 * A client in Java (JSSE, HTTP/1.1 or 2): Client URL HTTP(1|2) TLS(1.2|1.3) NAME-OF-CERTIFICATE|- AUTHORIZATION|- TIMES.
 *
 * <p>Prints the status of each answer. Each of TIMES is a connection of its own; from the second on the session is resumed.
 */
public class Client {
    public static void main(String[] arguments) throws Exception {
        char[] password = "changeit".toCharArray();
        KeyStore trusted = KeyStore.getInstance("PKCS12");
        trusted.load(null, null);
        try (FileInputStream file = new FileInputStream("ca.crt")) {
            trusted.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        KeyStore own = KeyStore.getInstance("PKCS12");
        own.load(null, null);
        if (!arguments[3].equals("-")) {
            try (FileInputStream file = new FileInputStream(arguments[3] + ".p12")) {
                own.load(file, password);
            }
        }
        keys.init(own, password);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        SSLParameters parameters = new SSLParameters();
        parameters.setProtocols(new String[] {"TLSv" + arguments[2]});
        HttpClient.Version version = arguments[1].equals("2") ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(arguments[0])).version(version);
        if (!arguments[4].equals("-")) {
            request.header("Authorization", arguments[4]);
        }
        // Held until the end: a client that nobody holds ends its connection.
        List<HttpClient> clients = new ArrayList<>();
        for (int time = 0; time < Integer.parseInt(arguments[5]); time++) {
            HttpClient client = HttpClient.newBuilder().sslContext(context).sslParameters(parameters).version(version).build();
            clients.add(client);
            System.out.println(client.send(request.build(), HttpResponse.BodyHandlers.ofString()).statusCode());
        }
        System.exit(0);
    }
}
