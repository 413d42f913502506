BEGIN TRANSACTION;
CREATE TABLE account (
	id INTEGER NOT NULL, 
	site VARCHAR(200) NOT NULL, 
	dataset VARCHAR(200) NOT NULL, 
	unit VARCHAR(200) NOT NULL, 
	delta VARCHAR(64) NOT NULL, 
	budget VARCHAR(64) NOT NULL, 
	filter_order INTEGER NOT NULL, 
	sequence INTEGER NOT NULL, 
	head VARCHAR(64) NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (site, dataset, unit)
);
INSERT INTO "account" VALUES(1,'north','letters','patient','0.00001','9.25',4,25,'06d4a9adece0e25afccb862e10ddacd46347f79ceff336eb59099c68e6c993cc');
INSERT INTO "account" VALUES(2,'north','letters-held-out','patient','0.000001','1.5',16,6,'7955ea1dd9ad8d81bdc519ab12cfdcbca494c5af5776e0be88530e9f63c64340');
INSERT INTO "account" VALUES(3,'north','first form, ä','patient','0.00001','8',8,7,'d8095d3169cf0540e7d18e1565463e86aeef461fdc926bff327e7244a08f7064');
CREATE TABLE allotment (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	run VARCHAR(64) NOT NULL, 
	"plan" VARCHAR(64) NOT NULL, 
	coordinator VARCHAR(64) NOT NULL, 
	noise_multiplier VARCHAR(64) NOT NULL, 
	sampling_rate VARCHAR(64) NOT NULL, 
	adaptive INTEGER NOT NULL, 
	allotted BIGINT NOT NULL, 
	reserved BIGINT NOT NULL, 
	committed BIGINT NOT NULL, 
	voided BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT never_over_the_allotment CHECK (reserved + committed + voided <= allotted), 
	CONSTRAINT no_negative_count CHECK (reserved >= 0 AND committed >= 0 AND voided >= 0), 
	FOREIGN KEY(account_id) REFERENCES account (id), 
	UNIQUE (account_id, run, noise_multiplier, sampling_rate)
);
INSERT INTO "allotment" VALUES(1,1,'run-a','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','4','0.02',0,60,0,23,37);
INSERT INTO "allotment" VALUES(2,1,'run-a','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','6.5','0.01',0,30,0,5,25);
INSERT INTO "allotment" VALUES(3,1,'run-other','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d','6.5','0.01',1,20,0,2,18);
INSERT INTO "allotment" VALUES(4,1,'run-lost','','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','6.5','0.01',1,7,0,7,0);
INSERT INTO "allotment" VALUES(5,1,'run-b','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','4','0.02',1,40,4,0,0);
INSERT INTO "allotment" VALUES(6,2,'run-a','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','30','1',0,4,0,2,0);
INSERT INTO "allotment" VALUES(7,3,'old','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','4','0.02',0,50,0,10,40);
INSERT INTO "allotment" VALUES(8,3,'rebased-1','','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','4','0.02',1,10,0,10,0);
CREATE TABLE dpbitfit_ledger_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT dpbitfit_ledger_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "dpbitfit_ledger_version" VALUES('0003');
CREATE TABLE event (
	account_id INTEGER NOT NULL, 
	sequence INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	body TEXT NOT NULL, 
	hash VARCHAR(64) NOT NULL, coordinator VARCHAR(64) DEFAULT '' NOT NULL, 
	PRIMARY KEY (account_id, sequence), 
	FOREIGN KEY(account_id) REFERENCES account (id)
);
INSERT INTO "event" VALUES(1,1,'open','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:06+00:00","budget":"8","delta":"0.00001","kind":"open","previous":"0000000000000000000000000000000000000000000000000000000000000000","sequence":1}','fa2910550c461afb686e4ade2deaae3509dc0a550590e0c29d3f72ea790153dd','');
INSERT INTO "event" VALUES(1,2,'allot','{"account":["north","letters","patient"],"adaptive":false,"at":"2026-11-28T01:00:07+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","counts":[["4","0.02",60],["6.5","0.01",30]],"kind":"allot","order":4,"plan":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","previous":"fa2910550c461afb686e4ade2deaae3509dc0a550590e0c29d3f72ea790153dd","run":"run-a","sequence":2}','e04050d6ab6c6ec34962cc5547353182e8be3147205522607e3edcc9cd19729c','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,3,'reserve','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:07+00:00","counts":[["4","0.02",10]],"key":"a1","kind":"reserve","previous":"e04050d6ab6c6ec34962cc5547353182e8be3147205522607e3edcc9cd19729c","round":1,"run":"run-a","sequence":3}','80de584f9fe9a69444612293460d0acf399901d75265f554f05f15daad2bdb73','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,4,'allot','{"account":["north","letters","patient"],"adaptive":true,"at":"2026-11-28T01:00:08+00:00","coordinator":"0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d","counts":[["6.5","0.01",20]],"kind":"allot","order":4,"plan":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","previous":"80de584f9fe9a69444612293460d0acf399901d75265f554f05f15daad2bdb73","run":"run-other","sequence":4}','ff7355924f45815d9eaf65513c812dd9bfc8451ff176a71cecf569c0ea89f5f5','0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d');
INSERT INTO "event" VALUES(1,5,'commit','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","key":"a1","kind":"commit","outcome":"reply","previous":"ff7355924f45815d9eaf65513c812dd9bfc8451ff176a71cecf569c0ea89f5f5","sequence":5}','1bb3298a8f049899b0f7c708b12951120b9559f7d8505b2e810ae6a269c346df','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,6,'reserve','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","counts":[["4","0.02",10],["6.5","0.01",5]],"key":"a2","kind":"reserve","previous":"1bb3298a8f049899b0f7c708b12951120b9559f7d8505b2e810ae6a269c346df","round":2,"run":"run-a","sequence":6}','69aaa00918ea4a5c68f18c1f799af627ba3e434d9056e47abe731419ec49faa4','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,7,'commit','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","key":"a2","kind":"commit","outcome":"reply","previous":"69aaa00918ea4a5c68f18c1f799af627ba3e434d9056e47abe731419ec49faa4","sequence":7}','a69665e942c0c10a1daec73243455ef27dfd91729281a45c96a8f8d8a259f444','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,8,'reserve','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","counts":[["4","0.02",10]],"key":"a3","kind":"reserve","previous":"a69665e942c0c10a1daec73243455ef27dfd91729281a45c96a8f8d8a259f444","round":3,"run":"run-a","sequence":8}','27a0f3683a86416d6f6e9192469842d7c85ce770c49f0e941ff597140e6cf683','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,9,'release','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","key":"a3","kind":"release","outcome":"untouched","previous":"27a0f3683a86416d6f6e9192469842d7c85ce770c49f0e941ff597140e6cf683","proof":"7f6ed5e363856f8d54f870f1b61d86b31d0b6ce759e3f745a3aa0c7a0aa87855edf616bf12df7ac7b879deeef9c0095d13bf0084e6d314b06747e90cfe64c805","sequence":9}','2ee9e9865c3eb45dfa25a6336a83777f5ab930270f8c6f73199dd3399c4bf83c','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,10,'void','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","key":"a4","kind":"void","previous":"2ee9e9865c3eb45dfa25a6336a83777f5ab930270f8c6f73199dd3399c4bf83c","round":4,"run":"run-a","sequence":10}','12236750d2fc5ead1bed2f9dd72e368ae510e9d274f824c90aabd44716026e0f','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,11,'void','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","coordinator":"","key":"o1","kind":"void","previous":"12236750d2fc5ead1bed2f9dd72e368ae510e9d274f824c90aabd44716026e0f","round":1,"run":"run-other","sequence":11}','2c97b362749ae0bf592c42a7d514e35c5f5606992b5597fae6890aab415aabf4','');
INSERT INTO "event" VALUES(1,12,'reserve','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","counts":[["4","0.02",1]],"key":"a5","kind":"reserve","previous":"2c97b362749ae0bf592c42a7d514e35c5f5606992b5597fae6890aab415aabf4","round":5,"run":"run-a","sequence":12}','e55d799b1f0707813e7f222b7cff2221af53e8fe1d443f37e782700b5e681950','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,13,'commit','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","key":"a5","kind":"commit","outcome":"ended early","previous":"e55d799b1f0707813e7f222b7cff2221af53e8fe1d443f37e782700b5e681950","sequence":13}','2e8dc29910c75f150d8a3fd7e5e4601e6fafe4ebf6311e4e053ac3db1952d0b5','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,14,'reserve','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","counts":[["6.5","0.01",2]],"key":"o2","kind":"reserve","previous":"2e8dc29910c75f150d8a3fd7e5e4601e6fafe4ebf6311e4e053ac3db1952d0b5","round":2,"run":"run-other","sequence":14}','fae8446ca88e7734d7c6ee4865af6153a8ac0da1b578df2675ce425080fce9c9','0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d');
INSERT INTO "event" VALUES(1,15,'commit','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","key":"o2","kind":"commit","outcome":"crashed","previous":"fae8446ca88e7734d7c6ee4865af6153a8ac0da1b578df2675ce425080fce9c9","sequence":15}','34d0a34ebc5631f683895005349d5b7f2dd35dd82ce43278d175541e06a4a43a','0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d');
INSERT INTO "event" VALUES(1,16,'budget','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","budget":"6","delta":"0.00001","kind":"budget","previous":"34d0a34ebc5631f683895005349d5b7f2dd35dd82ce43278d175541e06a4a43a","reason":"the board: less","sequence":16}','59df4a395388ef352bc0d7be8f1aa7f9b94e13f1b6631e8cc77b8c0acb38e5d8','');
INSERT INTO "event" VALUES(1,17,'void','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","counts":[["6.5","0.01",18]],"kind":"void","previous":"59df4a395388ef352bc0d7be8f1aa7f9b94e13f1b6631e8cc77b8c0acb38e5d8","run":"run-other","sequence":17}','d3cff557d2d8ed8b6cbf979d4b5bc419bff6b5a7c4c15808c46378b4c5634401','');
INSERT INTO "event" VALUES(1,18,'rebase','{"account":["north","letters","patient"],"allotted":[],"at":"2026-11-28T01:00:08+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","counts":[["4","0.02",2]],"kind":"rebase","order":4,"previous":"d3cff557d2d8ed8b6cbf979d4b5bc419bff6b5a7c4c15808c46378b4c5634401","reason":"restored, counts taken over","run":"run-a","sequence":18}','37053fe706a7dd11301c107f959a785d40be5071d4118c865374436cc825c190','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,19,'rebase','{"account":["north","letters","patient"],"allotted":[["6.5","0.01",7]],"at":"2026-11-28T01:00:08+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","counts":[["6.5","0.01",7]],"kind":"rebase","order":4,"previous":"37053fe706a7dd11301c107f959a785d40be5071d4118c865374436cc825c190","reason":"restored, counts taken over","run":"run-lost","sequence":19}','4b1265c7c1d5649c61df8ec81b30e2a50d781768ccff45b5ab3e3d4158ffc5cc','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,20,'budget','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","budget":"0.9","delta":"0.00001","kind":"budget","previous":"4b1265c7c1d5649c61df8ec81b30e2a50d781768ccff45b5ab3e3d4158ffc5cc","reason":"lowered below what was approved","sequence":20}','68b8d06c69f34797687870b5dc965e72cdc972d86f6f326ec30d3ef1f4074719','');
INSERT INTO "event" VALUES(1,21,'void','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","counts":[["4","0.02",37],["6.5","0.01",25]],"kind":"void","previous":"68b8d06c69f34797687870b5dc965e72cdc972d86f6f326ec30d3ef1f4074719","reason":"lowered below what was approved","run":"run-a","sequence":21}','2b5baff4276a29d5acf52073bf0b293cb6d53739047c5ce195e9200ed7c802e1','');
INSERT INTO "event" VALUES(1,22,'rebase','{"account":["north","letters","patient"],"allotted":[],"at":"2026-11-28T01:00:08+00:00","coordinator":"","counts":[],"kind":"rebase","order":4,"previous":"2b5baff4276a29d5acf52073bf0b293cb6d53739047c5ce195e9200ed7c802e1","reason":"an operator has looked","run":"","sequence":22}','e536f15df44282742248c34f52b52b99c75fccba16df1c45d6bc03c4d2bde65a','');
INSERT INTO "event" VALUES(1,23,'budget','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","budget":"9.25","delta":"0.00001","kind":"budget","previous":"e536f15df44282742248c34f52b52b99c75fccba16df1c45d6bc03c4d2bde65a","reason":"raised again","sequence":23}','b22c822db5f6836751c6f193b8fe129959cbcd6d5c7fbb72efb15dc1dd5dc136','');
INSERT INTO "event" VALUES(1,24,'allot','{"account":["north","letters","patient"],"adaptive":true,"at":"2026-11-28T01:00:08+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","counts":[["4","0.02",40]],"kind":"allot","order":4,"plan":"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc","previous":"b22c822db5f6836751c6f193b8fe129959cbcd6d5c7fbb72efb15dc1dd5dc136","run":"run-b","sequence":24}','2e63c3e2e60a16fc078434fb8f91fa3f54db3631aa405af313df9f442bea3c53','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(1,25,'reserve','{"account":["north","letters","patient"],"at":"2026-11-28T01:00:08+00:00","counts":[["4","0.02",4]],"key":"b1","kind":"reserve","previous":"2e63c3e2e60a16fc078434fb8f91fa3f54db3631aa405af313df9f442bea3c53","round":1,"run":"run-b","sequence":25}','06d4a9adece0e25afccb862e10ddacd46347f79ceff336eb59099c68e6c993cc','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(2,1,'open','{"account":["north","letters-held-out","patient"],"at":"2026-11-28T01:00:08+00:00","budget":"1.5","delta":"0.000001","kind":"open","previous":"0000000000000000000000000000000000000000000000000000000000000000","sequence":1}','5012f0de1011987d520bc17dcbed34fe2be59f8c484b603d480c80bb32d78549','');
INSERT INTO "event" VALUES(2,2,'allot','{"account":["north","letters-held-out","patient"],"adaptive":false,"at":"2026-11-28T01:00:09+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","counts":[["30","1",4]],"kind":"allot","order":16,"plan":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","previous":"5012f0de1011987d520bc17dcbed34fe2be59f8c484b603d480c80bb32d78549","run":"run-a","sequence":2}','abf5fd0ff37a0314b55edaf6969580ccecfdaca5682b4453075680e8557af18a','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(2,3,'reserve','{"account":["north","letters-held-out","patient"],"at":"2026-11-28T01:00:09+00:00","counts":[["30","1",1]],"key":"e2","kind":"reserve","previous":"abf5fd0ff37a0314b55edaf6969580ccecfdaca5682b4453075680e8557af18a","round":2,"run":"run-a","sequence":3}','e2ddcb4670c42153ec2e8ec60dfc5cabad2160ac13f022376817f07c34c747da','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(2,4,'commit','{"account":["north","letters-held-out","patient"],"at":"2026-11-28T01:00:09+00:00","key":"e2","kind":"commit","outcome":"reply","previous":"e2ddcb4670c42153ec2e8ec60dfc5cabad2160ac13f022376817f07c34c747da","sequence":4}','2f337bc9864511d23dda8296d9fb864a7d0ffbf234788acd9e751a48bc71c6d6','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(2,5,'reserve','{"account":["north","letters-held-out","patient"],"at":"2026-11-28T01:00:09+00:00","counts":[["30","1",1]],"key":"e4","kind":"reserve","previous":"2f337bc9864511d23dda8296d9fb864a7d0ffbf234788acd9e751a48bc71c6d6","round":4,"run":"run-a","sequence":5}','78ee2d27b4a033b98d79dc84a594310ca03be9db8fd5ec4dd8e719a424f5426a','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(2,6,'commit','{"account":["north","letters-held-out","patient"],"at":"2026-11-28T01:00:09+00:00","key":"e4","kind":"commit","outcome":"no reply","previous":"78ee2d27b4a033b98d79dc84a594310ca03be9db8fd5ec4dd8e719a424f5426a","sequence":6}','7955ea1dd9ad8d81bdc519ab12cfdcbca494c5af5776e0be88530e9f63c64340','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(3,1,'open','{"account":["north","first form, \u00e4","patient"],"at":"2026-01-01T00:00:00+00:00","budget":"8","delta":"0.00001","kind":"open","previous":"0000000000000000000000000000000000000000000000000000000000000000","sequence":1}','184606f48cd867ad6d0a7cff475bd8001ad4c95d74fd6ebe47f0bc9134e65d82','');
INSERT INTO "event" VALUES(3,2,'allot','{"account":["north","first form, \u00e4","patient"],"adaptive":false,"at":"2026-01-01T00:00:00+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","counts":[["4","0.02",50]],"kind":"allot","order":8,"plan":"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd","previous":"184606f48cd867ad6d0a7cff475bd8001ad4c95d74fd6ebe47f0bc9134e65d82","run":"old","sequence":2}','a83342b41eefd5182b70a98ed8052f6209199b772a0e11ad59ec62cb16d3e5d1','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(3,3,'reserve','{"account":["north","first form, \u00e4","patient"],"at":"2026-01-01T00:00:00+00:00","counts":[["4","0.02",10]],"key":"old1","kind":"reserve","previous":"a83342b41eefd5182b70a98ed8052f6209199b772a0e11ad59ec62cb16d3e5d1","round":1,"run":"old","sequence":3}','272acf2ec107972a1bb7e55fbdd838f78f02bd2b665bfa4157633b93651fd109','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(3,4,'commit','{"account":["north","first form, \u00e4","patient"],"at":"2026-01-01T00:00:00+00:00","key":"old1","kind":"commit","outcome":"reply","previous":"272acf2ec107972a1bb7e55fbdd838f78f02bd2b665bfa4157633b93651fd109","sequence":4}','60e32cca049e6f896871420114b5c1c4f15ef661d505e297fb084c6275a96541','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
INSERT INTO "event" VALUES(3,5,'void','{"account":["north","first form, \u00e4","patient"],"at":"2026-01-01T00:00:00+00:00","key":"old2","kind":"void","previous":"60e32cca049e6f896871420114b5c1c4f15ef661d505e297fb084c6275a96541","round":2,"run":"old","sequence":5}','b6aebc18b5fd0bb199bfa5bbfd7261f1cf65bac8c27afecf5659da2c2812a9fb','');
INSERT INTO "event" VALUES(3,6,'void','{"account":["north","first form, \u00e4","patient"],"at":"2026-01-01T00:00:00+00:00","counts":[["4","0.02",40]],"kind":"void","previous":"b6aebc18b5fd0bb199bfa5bbfd7261f1cf65bac8c27afecf5659da2c2812a9fb","run":"old","sequence":6}','15a6ae67074aa74f9952a506ee1379663dec59dbb506652116ec8dfe8d498e15','');
INSERT INTO "event" VALUES(3,7,'rebase','{"account":["north","first form, \u00e4","patient"],"at":"2026-01-01T00:00:00+00:00","coordinator":"335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd","counts":[["4","0.02",10]],"kind":"rebase","order":8,"previous":"15a6ae67074aa74f9952a506ee1379663dec59dbb506652116ec8dfe8d498e15","reason":"why","run":"rebased-1","sequence":7}','d8095d3169cf0540e7d18e1565463e86aeef461fdc926bff327e7244a08f7064','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd');
CREATE TABLE figure (
	counts VARCHAR(64) NOT NULL, 
	delta VARCHAR(64) NOT NULL, 
	epsilon FLOAT NOT NULL, 
	lower FLOAT NOT NULL, 
	accountant VARCHAR(16) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	PRIMARY KEY (counts, delta)
);
INSERT INTO "figure" VALUES('20b19ef8e52721aa81c486d436555c167c2883ebdb8c5525a59f45e83e731702','0.000001',2.57304424080136429076e-01,2.47313400101103197936e-01,'PLD','dp-accounting 0.6.0');
INSERT INTO "figure" VALUES('d1a132dfe04c9b2406127f2e31bfd02e4d37fb2c804ef051bbdf7f48967ab1b5','0.000001',1.776715064404427169e-01,1.67704093012687849295e-01,'PLD','dp-accounting 0.6.0');
CREATE TABLE identity (
	public VARCHAR(64) NOT NULL, 
	PRIMARY KEY (public)
);
INSERT INTO "identity" VALUES('8fb20c8f0a0f37e6d3c2f34c96e2d701bcb4baa85137ffe7da8b881cc90b5f1f');
CREATE TABLE peer (
	account_id INTEGER NOT NULL, 
	ledger VARCHAR(64) NOT NULL, 
	coordinator VARCHAR(64) NOT NULL, 
	sequence INTEGER NOT NULL, 
	head VARCHAR(64) NOT NULL, 
	spent TEXT NOT NULL, 
	drift TEXT NOT NULL, runs TEXT DEFAULT '{}' NOT NULL, rebased INTEGER DEFAULT '0' NOT NULL, wanted INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (account_id, ledger), 
	FOREIGN KEY(account_id) REFERENCES account (id)
);
INSERT INTO "peer" VALUES(1,'335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd','335207417a0bec462098020009e70cc9648528b7d1f67f36db9592226c8b4dfd',2,'7f59dad6c917bf89ad717a392c947b27936292ba4f6ff8df3742a475d13799e3','[["4","0.02",10]]','','{"run-a":[["4","0.02",10]]}',0,0);
CREATE TABLE reply (
	"key" VARCHAR(200) NOT NULL, 
	request VARCHAR(64) NOT NULL, 
	payload BLOB, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY("key") REFERENCES reservation ("key")
);
INSERT INTO "reply" VALUES('a1','1111111111111111111111111111111111111111111111111111111111111111',NULL);
INSERT INTO "reply" VALUES('a2','2222222222222222222222222222222222222222222222222222222222222222',X'7365636F6E64207265706C79');
INSERT INTO "reply" VALUES('e2','3333333333333333333333333333333333333333333333333333333333333333',X'7B226C6F7373223A20317D');
CREATE TABLE reservation (
	"key" VARCHAR(200) NOT NULL, 
	account_id INTEGER NOT NULL, 
	run VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	counts TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	outcome VARCHAR(40) NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(account_id) REFERENCES account (id)
);
INSERT INTO "reservation" VALUES('a1',1,'run-a',1,'[["4","0.02",10]]','committed','reply');
INSERT INTO "reservation" VALUES('a2',1,'run-a',2,'[["4","0.02",10],["6.5","0.01",5]]','committed','reply');
INSERT INTO "reservation" VALUES('a3',1,'run-a',3,'[["4","0.02",10]]','released','untouched');
INSERT INTO "reservation" VALUES('a4',1,'run-a',4,'[]','void','');
INSERT INTO "reservation" VALUES('o1',1,'run-other',1,'[]','void','');
INSERT INTO "reservation" VALUES('a5',1,'run-a',5,'[["4","0.02",1]]','committed','ended early');
INSERT INTO "reservation" VALUES('o2',1,'run-other',2,'[["6.5","0.01",2]]','committed','crashed');
INSERT INTO "reservation" VALUES('b1',1,'run-b',1,'[["4","0.02",4]]','reserved','');
INSERT INTO "reservation" VALUES('e2',2,'run-a',2,'[["30","1",1]]','committed','reply');
INSERT INTO "reservation" VALUES('e4',2,'run-a',4,'[["30","1",1]]','committed','no reply');
INSERT INTO "reservation" VALUES('old1',3,'old',1,'[["4","0.02",10]]','committed','reply');
INSERT INTO "reservation" VALUES('old2',3,'old',2,'[]','void','');
CREATE TABLE signing_key (
	seed VARCHAR(64) NOT NULL, 
	PRIMARY KEY (seed)
);
INSERT INTO "signing_key" VALUES('c26366844e2d351f4a4867a18d93c0e699dfc624e57f9535c79a387d5cc6cd45');
CREATE INDEX reservation_of_account ON reservation (account_id, state);
CREATE INDEX reservation_of_run ON reservation (run, state);
CREATE INDEX event_of_coordinator ON event (account_id, coordinator, sequence);
COMMIT;
